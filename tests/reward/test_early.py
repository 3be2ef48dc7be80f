"""Verdicts with a head start are the verdicts: begun or not, asked once or twice, failed or not."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from aha.errors import DataError
from aha.records import Problem, Verdict
from aha.reward import early
from aha.reward.accuracy import judge_accuracy
from aha.reward.early import EarlyVerdicts
from aha.reward.response import Response

HALF = Problem("half", "?", "\\frac{1}{2}", "math")
SUM = Problem("sum", "?", "3", "number")


def said(answer: str) -> Response:
    return Response("so", answer, True)


def test_begun_and_not_begun_verdicts_are_those_of_the_checker() -> None:
    problems = [HALF, HALF, SUM, HALF, SUM]
    responses = [said("0.5"), said("2"), said("3"), said("0.5"), said("4")]
    verdicts = EarlyVerdicts()
    verdicts.begin(HALF, [responses[0], responses[1], responses[3]])
    found = verdicts.judge(problems, responses)
    assert found == judge_accuracy(problems, responses)
    assert [verdict.score for verdict in found] == [1.0, 0.0, 1.0, 1.0, 0.0]


def test_the_checker_works_beside_the_sampler_and_once_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str | None]] = []
    sampled = threading.Event()

    def judge(problems: Sequence[Problem], responses: Sequence[Response]) -> list[Verdict]:
        calls.append([response.answer for response in responses])
        assert sampled.wait(10)  # does not return before the sampler below has gone on
        return judge_accuracy(problems, responses)

    monkeypatch.setattr(early, "judge_accuracy", judge)
    verdicts = EarlyVerdicts()
    verdicts.begin(SUM, [said("3"), said("3"), said("4")])
    sampled.set()
    for _ in range(2):  # two rewards ask
        found = verdicts.judge([SUM] * 3, [said("3"), said("4"), said("5")])
    assert [verdict.score for verdict in found] == [1.0, 0.0, 0.0] and calls == [["3", "4"], ["5"]]
    verdicts.forget()
    verdicts.judge([SUM], [said("3")])
    assert calls[-1] == ["3"]


def test_a_fault_of_the_data_is_raised_where_the_verdict_is_asked_for() -> None:
    verdicts = EarlyVerdicts()
    unknown = Problem("x", "?", "1", "no-such-task")
    verdicts.begin(unknown, [said("1")])
    with pytest.raises(DataError, match="no-such-task"):
        verdicts.judge([unknown], [said("1")])


def test_a_verdict_is_that_of_its_own_problem_in_each_language() -> None:
    same = [Problem("x", "?", "5", "number"), Problem("x", "?", "7", "number", language="zh")]
    assert [verdict.score for verdict in EarlyVerdicts().judge(same, [said("5")] * 2)] == [1.0, 0.0]
