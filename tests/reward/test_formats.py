"""Partial rewards of the format and of a first answer, by hand and against what would farm them."""

from __future__ import annotations

import pytest

from aha.records import Problem, Status
from aha.reward import rules
from aha.reward.formats import carrot, tag_count
from aha.reward.response import read_response
from aha.tasks.checkers import CHECKERS, Checker
from aha.testing import few_problems

SUM = Problem("sum/7+45", "What is 7 + 45?", "52", "number")
REST = "7 + 45 = 52 </think> <answer> 52 </answer>"  # after a template that opens the thinking


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("", 0.0), ("52", 0.0), (f"<think> {REST}", 1.0), ("<think> a", 0.25), ("<think> a </think> 52", 0.5),
        ("<think> a </think> <answer> 52", 0.75), ("<answer> 52 </answer>", 0.5), (REST, 0.75),
        ("<think> <think> a </think> <answer> 52 </answer>", 0.75), (f"<think> {REST} <think> {REST}", 0.0),
        ("</answer> </think> <answer> <think>", 1.0),  # order is format_tags' to judge
    ],
)  # fmt: skip
def test_a_quarter_for_every_tag_that_is_there_once(text: str, score: float) -> None:
    verdict = tag_count(SUM, read_response(text))
    assert verdict.score == score
    assert verdict.status is (Status.RIGHT if score == 1.0 else Status.WRONG)


@pytest.mark.parametrize("tail", ["<|assistant|>\n<think>\n", "<think>"])
def test_a_template_that_opens_the_thinking_costs_nothing_and_opening_it_again_does(tail: str) -> None:
    read = read_response(f"\n{REST}", prompt_tail=tail)
    assert tag_count(SUM, read).score == rules.format_tags(SUM, read).score == carrot(SUM, read).score == 1.0
    again = read_response(f"<think> {REST}", prompt_tail=tail)
    assert (tag_count(SUM, again).score, rules.format_tags(SUM, again).score) == (0.75, 0.0)


@pytest.mark.parametrize(
    ("answer", "score"), [("52", 1.0), ("53", 0.1), ("-7", 0.1), ("what", 0.0), ("52 53", 0.0), ("", 0.0)]
)
def test_the_carrot_by_hand(answer: str, score: float) -> None:
    verdict = carrot(SUM, read_response(f"<think> a </think> <answer> {answer} </answer>"))
    assert (verdict.name, verdict.score) == ("carrot", score)
    assert verdict.status is (Status.RIGHT if score == 1.0 else Status.WRONG)


def test_a_carrot_of_another_size() -> None:
    assert carrot(SUM, read_response("<answer> 53 </answer>"), small=0.3).score == 0.3


def test_no_tag_or_two_answers_earn_no_carrot() -> None:
    for text in ("53", "<answer> 53", "<answer> 52 </answer> <answer> 53 </answer>"):
        assert carrot(SUM, read_response(text)).score == 0.0


def test_every_gold_is_the_whole_carrot() -> None:
    for problem in few_problems():
        if problem.task != "general":
            assert carrot(problem, read_response(f"<answer> {problem.answer} </answer>")).score == 1.0


def test_a_checker_that_fails_is_an_error_here_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(problem: Problem, answer: str) -> bool:
        raise ValueError("no such thing")

    monkeypatch.setitem(CHECKERS, "number", Checker(broken, lambda answer: answer))
    assert carrot(SUM, read_response("<answer> 53 </answer>")).status is Status.ERROR
