"""Accuracy, format, language and general scores, and what must not earn any."""

from __future__ import annotations

import dataclasses
import random

import pytest

from aha.records import Problem, Status
from aha.reward import rules
from aha.reward.response import Response, read_response
from aha.tasks import chain, general
from aha.tasks.checkers import CHECKERS, Checker
from aha.testing import few_problems

CHAIN = chain.generate(random.Random(0), language="en")


def response(answer: str | None, think: str = "first 2 + 3 = 5 .") -> Response:
    return Response(think, answer, answer is not None)


def test_every_gold_in_the_format_earns_accuracy_and_format() -> None:
    for problem in few_problems():
        if problem.task == "general":
            continue
        read = read_response(f"<think> so it is . </think> <answer> {problem.answer} </answer>")
        assert rules.accuracy(problem, read).status is Status.RIGHT
        assert rules.accuracy(problem, read).score == rules.format_tags(problem, read).score == 1.0


@pytest.mark.parametrize(
    "completion",
    [
        "", "{gold}", "<answer> {gold}", "<answer> {gold} </answer> <answer> {gold} </answer>",
        "<answer> {gold} {gold} </answer>", "<answer> 0 {gold} </answer>", "<answer> </answer> {gold}",
        "<answer> not {gold} or 77 </answer>", "</answer> {gold} <answer>",
    ],
)  # fmt: skip
def test_no_answer_two_answers_and_lists_earn_nothing(completion: str) -> None:
    for problem in few_problems():
        if problem.task != "general":
            read = read_response(completion.replace("{gold}", problem.answer))
            assert rules.accuracy(problem, read).score == 0.0
            assert rules.accuracy(problem, read).status is Status.WRONG
            assert rules.format_tags(problem, read).score == 0.0


def test_a_checker_that_fails_is_an_error_and_not_a_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(problem: Problem, answer: str) -> bool:
        raise ValueError("no such thing")

    monkeypatch.setitem(CHECKERS, "chain", Checker(broken, chain.vote_key))
    verdict = rules.accuracy(CHAIN, response("5"))
    assert verdict.status is Status.ERROR
    assert "no such thing" in verdict.note


def test_no_answer_of_a_model_makes_a_checker_fail() -> None:
    nasty = ["9" * 9_999, "(" * 199, "\x00", "1/0", "9**9**9", "é" * 300, "{", "\\", '"""', "a=5", "-", "1e999", "nan"]
    for problem in few_problems():
        if problem.task != "general":
            for answer in nasty:
                assert rules.accuracy(problem, response(answer)).status is Status.WRONG


@pytest.mark.parametrize(
    ("text", "english", "chinese"),
    [
        ("first 2 + 3 = 5 . then", 1.0, 0.0),
        ("第一 2 + 3 = 5 . 然后", 0.0, 1.0),
        ("first 2 + 3 = 5 . 然后 check 检查", 0.5, 0.5),
        ("one two three 四", 0.75, 0.25),
        ("a 大猫 be", 2 / 3, 1 / 3),  # two Han characters are one word
        ("首先 3 × 4 = 12, 12 ÷ 4 = 3", 0.0, 1.0),  # signs, though they stand among Latin letters
        ("3 × 4 = 12", None, None),
        ("设 x = 3, 则y是5, 角 θ", 0.0, 1.0),  # a name of one letter is no word of a language
        ("I have a cat and the angle π", 1.0, 0.0),  # these two letters are
        ("i 大猫", 0.5, 0.5),
        ("угол θείος", 0.0, 0.0),
        ("ok 先算三乘四等于十二", 1 / 6, 5 / 6),  # a sentence without spaces is not one word
        ("ok сначала сложим", 1 / 3, 0.0),  # a third language is neither
        ("déjà vu 42", 1.0, 0.0),
    ],
)
def test_language_share_by_hand(text: str, english: float | None, chinese: float | None) -> None:
    assert rules.language_share(text, "en") == (None if english is None else pytest.approx(english))
    assert rules.language_share(text, "zh") == (None if chinese is None else pytest.approx(chinese))


@pytest.mark.parametrize(
    ("text", "chinese"),
    [
        ("所以 $x = a + b$", 1.0),
        ("所以 $$x = mass$$ 等于 \\(y\\) 和 \\[ area \\]", 1.0),
        ("所以 \\frac{num}{den} 是 \\boxed{\\text{blue}}", 1.0),
        ("运行\n```python\nfor item in items: print(item)\n```\n得到 `result`", 1.0),
        ("运行\n```python\nfor item in items:", 1.0),  # cut inside the code
        ("所以 then $x$", 0.5),
        ("所以 \\(sum then", 1 / 3),  # never closed: text
        ("一共 $5 and $6", 0.5),  # money is no formula
        ("```a``` 所以 ```b``` then", 0.5),  # what stands between two blocks is text
    ],
)  # fmt: skip
def test_formulas_commands_and_code_are_no_language(text: str, chinese: float) -> None:
    assert rules.language_share(text, "zh") == pytest.approx(chinese)
    assert rules.language_share(text, "en") == pytest.approx(1 - chinese)


@pytest.mark.parametrize("text", ["$x = mass$", "```\nfirst then\n```", "\\boxed{all of it}"])
def test_thinking_in_nothing_but_notation_earns_no_language(text: str) -> None:
    assert rules.language_share(text, "en") is None
    assert rules.language(CHAIN, Response(text, "5", True)).score == 0.0


@pytest.mark.parametrize("text", ["", "2 + 3 = 5 ."])
def test_silence_is_no_language_and_earns_nothing(text: str) -> None:
    assert rules.language_share(text, "en") is None
    assert rules.language(CHAIN, Response(text, "5", True)).score == 0.0


def test_language_is_judged_in_the_thinking_alone() -> None:
    chinese = dataclasses.replace(CHAIN, language="zh")
    read = Response("第一 2 + 3 = 5 .", "five", True)
    assert rules.language(chinese, read).score == 1.0
    assert rules.language(chinese, read).status is Status.RIGHT
    assert rules.language(CHAIN, read).score == 0.0


def test_general_rule_needs_a_tagged_answer() -> None:
    problem = general.generate(random.Random(0), language="en")
    full, _ = general.answers(problem, random.Random(0))
    assert rules.general_rule(problem, response(full)).score == 1.0
    assert rules.general_rule(problem, response(None)).score == 0.0
