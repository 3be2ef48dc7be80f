"""Hundreds of hostile answers: none hangs or ends the judge, none is an error that masks it, none is right."""

from __future__ import annotations

import time

from hostile import GOLDS, hostile_pairs

from aha.records import Problem, Status
from aha.reward.accuracy import judge_accuracy
from aha.reward.response import Response, read_response


def test_hostile_answers_are_wrong_and_nothing_else() -> None:
    pairs = list(hostile_pairs())
    assert len({text for _, text in pairs}) >= 400
    problems = [Problem(str(i), "?", gold, "math") for i, (gold, _) in enumerate(pairs)]
    started = time.monotonic()
    verdicts = judge_accuracy(problems, [Response("", text or None, False) for _, text in pairs])
    assert time.monotonic() - started < 60
    judged = [(verdict.status, gold, text[:60]) for (gold, text), verdict in zip(pairs, verdicts, strict=True)]
    assert [row for row in judged if row[0] is not Status.WRONG] == []


def test_the_golds_themselves_are_right() -> None:
    """Or nothing ever would be, and the test above would pass."""
    problems = [Problem(gold, "?", gold, "math") for gold in GOLDS]
    verdicts = judge_accuracy(problems, [Response("", gold, True) for gold in GOLDS])
    assert [v.score for v in verdicts] == [1.0] * len(GOLDS)


def test_hostile_completions_are_read_in_time() -> None:
    started = time.monotonic()
    boxes, phrases = ("\\boxed{", "{", "}", "\\boxed{}", "\\"), ("the answer is ", "answer:", "the ", "so ", " ")
    for piece in (*boxes, *phrases, "<think>", "</think>"):
        for text in (piece * 50_000, "</think>" + piece * 50_000, f"<answer> {piece * 50_000} </answer>"):
            (verdict,) = judge_accuracy([Problem("p", "?", "7", "math")], [read_response(text)])
            assert verdict.status is Status.WRONG
    assert time.monotonic() - started < 20
