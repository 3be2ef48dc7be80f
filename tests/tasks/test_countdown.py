"""Countdown: every number once, the exact target, and nothing but plain arithmetic is read."""

from __future__ import annotations

import random
import time
from collections import Counter
from fractions import Fraction

import pytest

from aha.records import Problem
from aha.tasks import countdown

PROBLEM = Problem("c", "make 25 from 20 7 2", "20 + 7 - 2", "countdown", meta={"numbers": [20, 7, 2], "target": 25})


def test_generated_problems_have_exactly_one_solution_over_signs() -> None:
    for seed in range(1_000):
        problem = countdown.generate(random.Random(seed), language="en")
        numbers, target = problem.meta["numbers"], problem.meta["target"]
        solutions = []
        for signs in countdown.sign_choices(len(numbers)):
            total = numbers[0]
            for sign, n in zip(signs, numbers[1:], strict=True):
                total += n if sign == "+" else -n
                assert 0 <= total <= 99
            if total == target:
                solutions.append(countdown.expression(numbers, signs))
        assert solutions == [problem.answer]
        assert countdown.is_correct(problem, problem.answer)
        assert str(target) in problem.prompt.split()


def test_four_numbers_work_too() -> None:
    problem = countdown.generate(random.Random(0), language="zh", count=4)
    assert len(problem.meta["numbers"]) == 4
    assert countdown.is_correct(problem, problem.answer)


@pytest.mark.parametrize(
    "answer", ["20 + 7 - 2", "7+20-2", "(20 + 7) - 2", "7 - 2 + 20", "((20))+(7-2)", "  20 + 7 - 2  "]
)
def test_any_right_expression_is_accepted(answer: str) -> None:
    assert countdown.is_correct(PROBLEM, answer)


@pytest.mark.parametrize(
    "answer",
    [
        "", " ", "25", "20 + 7", "20 + 7 + 2", "20 + 7 - 2 + 0", "20 + 5", "20 + 7 - 2 - 2 + 2", "20 + 7 - 2 = 25",
        "20 + 7 - 2 , 20 + 7 + 2", "20 + 7 - 2\n20 + 7 - 2", "20 + 7 - 2 # right", "2_0 + 7 - 2", "0x14 + 7 - 2",
        "20.0 + 7 - 2", "２０ + 7 - 2", "٢٠ + 7 - 2", "20 + 7 − 2", "9**9**9", "9**9**9**9 - 9**9**9**9 + 20 + 7 - 2",
        "20 + 7 - 2 if 1 else 0", "__import__('os').system('true')", "eval('20+7-2')", "[20 + 7 - 2]", "lambda: 25",
        "20 7 2", "20 +", "+", "()", "20 / 0", "20 // 7", "20 % 7", "20 << 7", "~20", "-2 + 20 + 7", "20 - -7 - 2",
        "(" * 90 + "25" + ")" * 90, "(" * 199, "20 + 7 - 2" + " " * 5 + "(", "1" * 10_000, "1+" * 5_000 + "1",
        "20\x00+ 7 - 2", "True + 20 + 7 - 2",
    ],
)  # fmt: skip
def test_hostile_and_wrong_answers_are_refused_at_once(answer: str) -> None:
    started = time.perf_counter()
    assert not countdown.is_correct(PROBLEM, answer)
    assert time.perf_counter() - started < 0.2


def test_division_is_exact() -> None:
    problem = Problem("c", "", "", "countdown", meta={"numbers": [1, 3, 3], "target": 1})
    assert countdown.is_correct(problem, "1 / 3 * 3")
    assert countdown.value_of("1/3") == (Fraction(1, 3), Counter({1: 1, 3: 1}))


def test_a_number_twice_needs_two_of_it() -> None:
    problem = Problem("c", "", "", "countdown", meta={"numbers": [4, 4, 2], "target": 10})
    assert countdown.is_correct(problem, "4 + 4 + 2")
    assert not countdown.is_correct(problem, "4 * 2 + 2")


def test_votes_count_text_without_spaces_and_nonsense_abstains() -> None:
    assert countdown.vote_key("20+7 - 2") == countdown.vote_key("20 + 7 - 2") == "20+7-2"
    assert countdown.vote_key("2 0 + 7") is None
    assert countdown.vote_key("dunno") is None


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_clean_thought_tries_until_it_fits(language: str) -> None:
    for seed in range(200):
        problem = countdown.generate(random.Random(seed), language="en")
        numbers, target = problem.meta["numbers"], problem.meta["target"]
        thought = countdown.clean_thought(numbers, target, "en").split(" .")
        tries = [sentence.split() for sentence in thought if sentence.strip()]
        assert [words[-1] for words in tries] == ["no"] * (len(tries) - 1) + ["yes"]
        assert tries[-1][-2] == str(target)
        assert all(words[-2] != str(target) for words in tries[:-1])
        other = countdown.clean_thought(numbers, target, language).split()
        assert len(other) == sum(map(len, tries)) + len(tries)
