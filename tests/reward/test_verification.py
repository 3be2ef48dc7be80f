"""Rows are judged by the verifier that would reward them, and R1's filters name what is unreadable."""

from __future__ import annotations

from typing import Any

import pytest

from aha.reward.readability import Readable, language_of
from aha.reward.verification import Verify


def row(**fields: Any) -> dict[str, Any]:
    return {"id": "r", "problem": "What is 7 + 45?", **fields}


def test_each_row_is_judged_by_its_own_task_and_failures_are_no_wrong_answers() -> None:
    said = "<think> 7 + 45 = 52 </think> <answer> {} </answer>".format
    rows = [
        row(answer="52", completion=said(52)),
        row(answer=52),
        row(answer="52", completion=said(51)),
        row(answer="52", completion="it is 52"),
        row(answer="fifty"),
        row(answer=""),
        row(answer="52", task="poetry"),
        row(answer="\\frac{1}{2}", task="math", completion=said("0.5")),
        row(answer="x", task="countdown", completion=said("1 + 1")),  # lacks the numbers its checker reads
        *(row(answer=nothing, task="math") for nothing in (None, True, ["52"], {"a": 1})),
        row(answer="52", task=None),
    ]
    reasons = [found and found.reason for found in Verify().judge(rows)]
    assert reasons == [
        None, None, "wrong completion", "wrong completion", "wrong gold", "no answer", "no checker", None,
        "verifier failed", *["no answer"] * 4, None,
    ]  # fmt: skip


def test_a_row_without_what_its_checker_needs_takes_no_other_along() -> None:
    """A program has tests and no answer; where it lacks them nobody knows whether it is right."""
    found = Verify().judge([row(answer="52"), row(task="code")])
    assert found[0] is None and found[1] is not None and found[1].reason == "verifier failed"


def thinking(text: str) -> dict[str, Any]:
    return row(completion=f"<think> {text} </think> <answer> 52 </answer>")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (thinking("First the ones, then the tens."), None),
        (thinking("First the ones, 然后十位."), "mixed languages in the thinking"),
        (thinking("First $\\frac{a}{b}$ and `print`, then the tens."), None),
        (thinking("```python\nprint(52)\n```"), "code block in the thinking"),
        (thinking("one two three four\nfive six"), "long paragraph in the thinking"),
        (thinking("one two three\n\nfour five six"), None),
        (row(completion="word " * 21), "too long"),
        (row(language="zh", completion="x"), "another language"),
        (row(), None),
    ],
)
def test_what_is_unreadable(fields: dict[str, Any], reason: str | None) -> None:
    paragraph = 5 if "one two" in str(fields) else 50
    found = Readable(("en",), paragraph=paragraph, longest=20).fault(fields)
    assert (found and found.reason) == reason


def test_a_paragraph_may_have_as_many_words_as_its_limit() -> None:
    text = "<think> one two three </think> <answer> 4 </answer>"
    for limit, why in ((3, None), (2, "long paragraph in the thinking")):
        found = Readable(paragraph=limit).fault(row(completion=text))
        assert (found and found.reason) == why


def test_the_language_of_a_question() -> None:
    assert language_of(row()) == "en" and language_of({"problem": "小明有3个苹果"}) == "zh"
    assert language_of({"problem": "Сколько яблок?"}) == "other"
    assert language_of({"problem": "q", "lang": "de"}) == "de" == language_of({"problem": "q", "language": " DE"})
    assert [language_of({"problem": "q", "language": name}) for name in ("English", "Chinese")] == ["en", "zh"]
    assert language_of({"problem": "cat 猫"}) == "other"  # most of its words are in no script
    assert Readable().fault({**thinking("иди сюда"), "language": "ru"}) is None  # no rule tells it apart
