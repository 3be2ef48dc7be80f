"""Worked examples are right by their own checker, keep the format, and are in one language after rewriting."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from aha.data.examples import (
    WorkedExample,
    clean_example,
    load_examples,
    readable,
    rewrite,
    save_examples,
    tagged,
)
from aha.data.problems import arithmetic_problems, toy_general, toy_problem
from aha.errors import DataError
from aha.records import Problem
from aha.reward import rules
from aha.reward.response import read_response
from aha.tasks.words import LANGUAGES, say
from aha.testing import few_problems


def check(problem: Problem, rng: random.Random) -> None:
    example = clean_example(problem, rng)
    response = read_response(example.completion)
    assert response.well_formed, example
    rule = rules.general_rule if problem.task == "general" else rules.accuracy
    assert rule(problem, response).score == 1.0, (problem, example)
    assert example.question == problem.prompt
    assert example.origin == "clean"


def test_every_family_is_solved_right_and_well_formed() -> None:
    rng = random.Random(0)
    for problem in few_problems():
        check(problem, rng)
    for _ in range(300):
        check(toy_problem(rng, held_out=False), rng)
        check(toy_general(rng, held_out=False), rng)
    for problem in rng.sample(arithmetic_problems(), 500):
        check(problem, rng)


def test_toy_examples_are_readable_and_in_the_prompts_language() -> None:
    rng = random.Random(1)
    for _ in range(300):
        problem = toy_problem(rng, held_out=False)
        think = read_response(clean_example(problem, rng).completion).think
        assert readable(think)
        assert rules.language_share(think, problem.language) == 1.0


def test_sums_and_products_are_worked_step_by_step_correctly() -> None:
    for problem in random.Random(2).sample(arithmetic_problems(), 500):
        think = read_response(clean_example(problem, random.Random(0)).completion).think
        equations = re.findall(r"(\d+) ([+*]) (\d+) = (\d+)\.", think)
        assert len(equations) == think.count("=") > 0
        for a, sign, b, result in equations:
            assert {"+": int(a) + int(b), "*": int(a) * int(b)}[sign] == int(result)
        assert equations[-1][-1] == problem.answer


def test_a_given_solution_is_used_and_none_is_an_error() -> None:
    own = Problem("mine/1", "How many?", "5", "number", meta={"solution": " Two and three make 5. "})
    assert clean_example(own, random.Random(0)).completion == tagged("Two and three make 5.", "5")
    with pytest.raises(DataError, match="mine/2.*no 'solution'"):
        clean_example(Problem("mine/2", "How many?", "5", "number"), random.Random(0))


def test_readable_wants_sentences_something_computed_and_no_repetition() -> None:
    assert readable("first 2 + 3 = 5 . then 5 + 1 = 6 .")
    assert not readable("")
    assert not readable("first 2 + 3 = 5")
    assert not readable("so it is .")
    assert not readable("2 + 3 = 5 . 2 + 3 = 5 .")


@pytest.mark.parametrize("language", LANGUAGES)
def test_rewriting_gives_one_language_without_fillers(language: str) -> None:
    mixed = f"hmm . first 2 + 3 = 5 . {say('then 5 - 1 = 4 . hmm . wait 5 - 2 = 3 .', 'zh')} check 3 ok ."
    clean = rewrite(mixed, language)
    assert clean == say("first 2 + 3 = 5 . then 5 - 1 = 4 . wait 5 - 2 = 3 . check 3 ok .", language)
    assert rules.language_share(clean, language) == 1.0
    assert rewrite(clean, language) == clean


@pytest.mark.parametrize("language", LANGUAGES)
def test_rewriting_keeps_text_that_is_not_in_the_toys_form(language: str) -> None:
    for text in ("40 + 7 = 47.\nSo 47.", "A list:\n\n  - 2  +  3 = 5.\n  - hmm."):
        assert rewrite(text, language) == text


def test_rewriting_drops_fillers_at_both_ends_and_in_a_row() -> None:
    assert rewrite("hmm . 嗯 . 1 + 1 = 2 . hmm . hmm . 2 + 1 = 3 .\n hmm .", "en") == "1 + 1 = 2 . 2 + 1 = 3 ."


def test_examples_survive_the_file(tmp_path: Path) -> None:
    examples = [WorkedExample("q 大", "<think> a . </think>", "clean"), WorkedExample("r", "b", "r1_zero")]
    save_examples(tmp_path / "e.jsonl", examples)
    assert load_examples(tmp_path / "e.jsonl") == examples


@pytest.mark.parametrize("row", ['{"question": "q"}', '{"completion": "c"}', '{"question": "q", "completion": " "}'])
def test_a_bad_example_is_named(row: str, tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text(f'{{"question": "q", "completion": "c"}}\n{row}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"e\.jsonl, row 2"):
        load_examples(path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="has no rows"):
        load_examples(path)
