"""The stricter verifier: what the rewarding one may let pass and this one does not."""

from __future__ import annotations

from random import Random

import pytest

from aha.records import Problem
from aha.reward.response import read_response
from aha.reward.strict import is_strictly_right
from aha.tasks import general
from aha.testing import few_problems

SUM = Problem("s", "2 + 3", "5", "number")


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("<think> 2 + 3 </think> <answer> 5 </answer>", True),
        ("<think> 2 + 3 </think> <answer> 6 </answer>", False),
        ("<answer> 5 </answer>", False),
        ("<think> a </think> <answer> 5 </answer> <answer> 5 </answer>", False),
        ("<think> 5 5 5 </think> so 5", False),
        ("<think> a </think> <answer> 1 or 2 or 3 or 4 or 5 </answer>", False),
        ("", False),
    ],
)
def test_only_an_answer_that_is_right_alone_and_in_its_place_counts(completion: str, right: bool) -> None:
    assert is_strictly_right(SUM, read_response(completion), 1.0) is right


def test_every_known_good_answer_is_right() -> None:
    for problem in few_problems():
        response = read_response(f"<think> so </think> <answer> {problem.answer} </answer>")
        assert is_strictly_right(problem, response, 1.0) is True


def test_tasks_judged_elsewhere_keep_the_verdict_but_not_a_wall_of_guesses() -> None:
    problem = Problem("m", "x ?", "1/2", "math")
    short, long = (
        read_response(f"<think> a </think> <answer> {text} </answer>") for text in ("0.5", "1/2 1/3 1/4 " * 9)
    )
    assert is_strictly_right(problem, short, 1.0) is True
    assert is_strictly_right(problem, short, 0.0) is False
    assert is_strictly_right(problem, long, 1.0) is False
    assert is_strictly_right(problem, short, None) is None


def test_an_answer_may_be_twice_as_long_as_the_gold_and_sixteen_characters_more() -> None:
    problem = Problem("m", "x ?", "1/2", "math")
    for length, right in ((22, True), (23, False)):
        said = read_response(f"<think> a </think> <answer> {'9' * length} </answer>")
        assert is_strictly_right(problem, said, 1.0) is right


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        (r"2 + 3 = 5, so \boxed{5}", True),
        (r"<think> 2 + 3 </think> it is \boxed{5}.", True),
        (r"<think> 2 + 3 </think> <answer> 5 </answer> or \boxed{5}", False),  # a tag was tried, in the wrong place
        (r"\boxed{5, or 4, or 3, or any other number that there may be}", False),
        ("the answer is 5", False),
    ],
)
def test_a_box_without_tags_is_the_right_place_where_the_task_takes_one(completion: str, right: bool) -> None:
    """Else a policy that learns without tags would be taken for one that cheats."""
    assert is_strictly_right(Problem("m", "2 + 3", "5", "math"), read_response(completion), 1.0) is right


def test_a_checker_that_fails_says_nothing() -> None:
    broken = Problem("c", "make 5", "5", "countdown")  # without numbers and target
    assert is_strictly_right(broken, read_response("<think> a </think> <answer> 5 </answer>"), 1.0) is None


def test_a_general_prompt_keeps_its_rule_and_one_without_any_has_none() -> None:
    problem = general.generate(Random(0), language="en")
    good, _ = general.answers(problem, Random(0))
    assert is_strictly_right(problem, read_response(f"<think> a </think> <answer> {good} </answer>"), 0.2) is True
    assert is_strictly_right(problem, read_response("<think> a </think> <answer> gladly </answer>"), 0.9) is False
    own = Problem("g", "help me", "", "general", meta={"judge": "helpful"})
    assert is_strictly_right(own, read_response("<think> a </think> <answer> ok </answer>"), 0.9) is None
