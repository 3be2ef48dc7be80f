"""Accuracy of many: each task's judge gets its own in one call, and one that fails is an error of its samples."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from aha.errors import DataError, VerifierError
from aha.records import Problem, Status, Verdict
from aha.reward import accuracy, rules
from aha.reward.accuracy import BATCHES, judge_accuracy
from aha.reward.response import Response, read_response
from aha.reward.rubric import Reward, score
from aha.tasks import mathematics
from aha.tasks.checkers import CHECKERS, Checker
from aha.util.workers import Workers

TASKS = [
    (Problem("a", "?", "7", "number"), "7", "8"),
    (Problem("b", "?", "x+1", "math"), "1+x", "x"),
    (Problem("c", "?", "B", "choice"), "(B)", "(A)"),
    (Problem("d", "?", "Mount Fuji", "exact"), "mount  fuji", "Fuji"),
    (Problem("e", "?", "Al is a knight, Bo is a knave", "knights_knaves"), "Bo: knave, Al: knight", "Al: knave"),
]


def said(answer: str | None) -> Response:
    return Response("t", answer, answer is not None)


def test_verdicts_come_in_order_whatever_the_mixture() -> None:
    problems = [problem for problem, _, _ in TASKS for _ in range(3)] * 2
    responses = [said(a) for _, right, wrong in TASKS for a in (right, wrong, None)] * 2
    verdicts = judge_accuracy(problems, responses)
    assert [v.score for v in verdicts] == [1.0, 0.0, 0.0] * len(TASKS) * 2
    assert verdicts == [rules.accuracy(p, r) for p, r in zip(problems, responses, strict=True)]
    assert {v.name for v in verdicts} == {"accuracy"}


def test_each_task_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def judge(problems: Sequence[Problem], responses: Sequence[Response]) -> list[Verdict]:
        calls.append([p.id for p in problems])
        return [Verdict("accuracy", Status.RIGHT, 1.0)] * len(problems)

    monkeypatch.setitem(BATCHES, "math", judge)
    judge_accuracy([problem for problem, _, _ in TASKS] * 2, [said("7")] * len(TASKS) * 2)
    assert calls == [["b", "b"]]


def broken(*_: object) -> bool:
    raise KeyError("no such thing")


@pytest.mark.parametrize("task", ["number", "math"])
def test_a_verifier_that_always_raises_stops_the_run(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if task == "math":
        monkeypatch.setitem(BATCHES, task, broken)  # type: ignore[arg-type]
    else:
        monkeypatch.setitem(CHECKERS, task, Checker(broken, CHECKERS[task].vote_key))
    problem = Problem("mine/3", "?", "7", task)
    (verdict,) = judge_accuracy([problem], [said("41")])
    assert verdict.status is Status.ERROR and "no such thing" in verdict.note
    with pytest.raises(VerifierError, match=r"'accuracy' failed on 2 of 2 .*'mine/3', '41'.*no such thing"):
        score([Reward("accuracy", judge_accuracy, 1.0, lambda p: True)], [problem] * 2, [said("41")] * 2, progress=0.0)


def test_one_failure_masks_one_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    checker = CHECKERS["number"]
    monkeypatch.setitem(
        CHECKERS, "number", Checker(lambda p, a: broken() if a == "8" else checker.is_correct(p, a), checker.vote_key)
    )
    verdicts = judge_accuracy([TASKS[0][0]] * 3, [said("7"), said("8"), said("9")])
    assert [v.status for v in verdicts] == [Status.RIGHT, Status.ERROR, Status.WRONG]


def test_a_pool_that_cannot_start_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mathematics, "POOL", Workers("nowhere:nothing", deadline=1.0))
    (verdict,) = judge_accuracy([Problem("b", "?", "q+1", "math")], [said("1+q")])
    assert verdict.status is Status.ERROR and "No module named 'nowhere'" in verdict.note


def test_a_task_that_nobody_checks_is_an_error_of_the_data() -> None:
    with pytest.raises(DataError, match="no checker for task 'maths'.*'math'"):
        judge_accuracy([Problem("x", "?", "7", "maths")], [said("7")])


def test_untagged_answers_count_where_the_task_says_so() -> None:
    text = "<think> a </think> The answer is \\boxed{B}."
    (verdict,) = judge_accuracy([TASKS[2][0]], [read_response(text)])
    assert verdict.status is Status.RIGHT
    assert accuracy.judge_accuracy([], []) == []


def test_a_tolerance_is_for_wrong_numbers_and_not_for_a_verifier_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem("t", "?", "3.14", "math", meta={"tolerance": 0.05})
    assert [v.score for v in judge_accuracy([problem] * 2, [said("3.1"), said("3.0")])] == [1.0, 0.0]
    failed = Verdict("accuracy", Status.ERROR, 0.0, "too slow")
    monkeypatch.setattr(mathematics, "verify_many", lambda pairs: [failed] * len(pairs))
    assert judge_accuracy([problem], [said("3.1")]) == [failed]
