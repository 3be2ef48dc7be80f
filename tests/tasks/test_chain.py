"""Chain sums: every partial result in 0..99, one whole number as the answer."""

from __future__ import annotations

import random

import pytest

from aha.records import Problem
from aha.tasks import chain

PROBLEM = Problem("chain/12", "compute", "14", "chain")


def read(problem: Problem) -> tuple[int, list[tuple[str, int]]]:
    """The first number and the signed operands, the numbering of the operations left out."""
    words = [word for word in problem.meta["expression"].split() if not word.startswith("#")]
    return int(words[0]), [(sign, int(n)) for sign, n in zip(words[1::2], words[2::2], strict=True)]


def test_generated_problems_keep_every_partial_result_in_range() -> None:
    lengths = set()
    for seed in range(2_000):
        problem = chain.generate(random.Random(seed), language="en")
        total, operations = read(problem)
        lengths.add(len(operations) + 1)
        for sign, operand in operations:
            total += {"+": operand, "-": -operand}[sign]
            assert 0 <= total <= chain.LIMIT
            assert 1 <= operand <= 9
        assert problem.answer == str(total)
        assert chain.is_correct(problem, problem.answer)
        assert not chain.is_correct(problem, str(total + 1))
        assert problem.id == f"chain/{problem.meta['expression']}"
    assert lengths == set(range(chain.MIN_TERMS, chain.MAX_TERMS + 1))


def test_the_id_leaves_the_language_out() -> None:
    english, chinese = (chain.generate(random.Random(7), language=language) for language in ("en", "zh"))
    assert english.id == chinese.id
    assert english.prompt != chinese.prompt
    assert english.meta == chinese.meta


def test_the_same_seed_gives_the_same_problem() -> None:
    assert chain.generate(random.Random(3), language="zh") == chain.generate(random.Random(3), language="zh")


@pytest.mark.parametrize("answer", ["14", " 14 ", "014"])
def test_the_number_itself_is_right(answer: str) -> None:
    assert chain.is_correct(PROBLEM, answer)
    assert chain.vote_key(answer) == "14"


@pytest.mark.parametrize(
    "answer",
    ["", " ", "15", "-14", "+14", "14.0", "14 .", "14 14", "14 15", "1 4", "17 - 3", "１４", "١٤", "¹⁴", "14²",
     "14\x00", "fourteen", "(14)", "0xE", "9**9**9", "14" * 5_000, "0" * 5_000 + "14"],
)  # fmt: skip
def test_anything_else_is_wrong_and_never_an_exception(answer: str) -> None:
    assert not chain.is_correct(PROBLEM, answer)
    assert chain.vote_key(answer) != "14"


def test_the_clean_thought_computes_what_the_problem_asks() -> None:
    for seed in range(300):
        problem = chain.generate(random.Random(seed), language="en")
        sentences = chain.clean_thought(problem.meta["expression"], "en").split(" .")
        results = [sentence.split()[-1] for sentence in sentences if sentence.strip()]
        total, operations = read(problem)
        expected = []
        for sign, operand in operations:
            total += {"+": operand, "-": -operand}[sign]
            expected.append(str(total))
        assert results == expected
