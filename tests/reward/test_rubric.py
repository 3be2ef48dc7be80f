"""Weights, who is judged, late starts, failed verifiers: by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from aha.errors import VerifierError
from aha.records import Problem, Status, Verdict
from aha.reward.response import Response
from aha.reward.rubric import Judge, Reward, each, score

PROBLEMS = [Problem(str(i), "x", "1", "chain" if i % 2 else "general") for i in range(4)]
RESPONSES = [Response("t", str(i), True) for i in range(4)]


def always(problem: Problem) -> bool:
    return True


def constant(name: str, value: float) -> Judge:
    return each(lambda problem, response: Verdict(name, Status.RIGHT, value))


def failing(*ids: str) -> Callable[[Problem, Response], Verdict]:
    def judge(problem: Problem, response: Response) -> Verdict:
        if problem.id in ids:
            return Verdict("v", Status.ERROR, 7.0, f"broke on {problem.id}")
        return Verdict("v", Status.RIGHT, 1.0)

    return judge


def test_total_is_the_weighted_sum_and_parts_stay_unweighted() -> None:
    rewards = [
        Reward("a", constant("a", 1.0), 2.0, always),
        Reward("b", constant("b", 0.5), -1.0, lambda p: p.task == "chain"),
    ]
    scored = score(rewards, PROBLEMS, RESPONSES, progress=0.0)
    assert scored.total == [2.0, 1.5, 2.0, 1.5]
    assert scored.parts == {"a": [1.0] * 4, "b": [None, 0.5, None, 0.5]}
    assert scored.valid == [True] * 4


def test_each_judge_gets_its_own_problems_with_their_responses() -> None:
    seen: list[tuple[str, str | None]] = []

    def judge(problems: Sequence[Problem], responses: Sequence[Response]) -> list[Verdict]:
        seen.extend((p.id, r.answer) for p, r in zip(problems, responses, strict=True))
        return [Verdict("j", Status.RIGHT, float(r.answer or 0)) for r in responses]

    scored = score([Reward("j", judge, 1.0, lambda p: p.task == "chain")], PROBLEMS, RESPONSES, progress=0.0)
    assert seen == [("1", "1"), ("3", "3")]
    assert scored.total == [0.0, 1.0, 0.0, 3.0]


@pytest.mark.parametrize(("progress", "counts"), [(0.0, False), (0.74, False), (0.75, True), (1.0, True)])
def test_a_late_reward_counts_from_its_start_and_is_not_computed_before(progress: float, counts: bool) -> None:
    calls = []

    def judge(problem: Problem, response: Response) -> Verdict:
        calls.append(problem.id)
        return Verdict("late", Status.RIGHT, 1.0)

    scored = score([Reward("late", each(judge), 3.0, always, start=0.75)], PROBLEMS, RESPONSES, progress=progress)
    assert scored.total == [3.0 if counts else 0.0] * 4
    assert scored.parts["late"] == [1.0 if counts else None] * 4
    assert len(calls) == (4 if counts else 0)


@pytest.mark.parametrize(
    ("progress", "total"), [(0.0, None), (0.25, 0.5), (0.5, 1.0), (0.7, 0.5), (0.8, None), (1.0, None)]
)
def test_a_reward_comes_and_goes_gradually(progress: float, total: float | None) -> None:
    """Weight 2, score 0.5: 1 in full."""
    reward = Reward("r", constant("r", 0.5), 2.0, always, start=0.15, end=0.8, ramp=0.2)
    scored = score([reward], PROBLEMS, RESPONSES, progress=progress)
    assert scored.total == pytest.approx([total or 0.0] * 4)
    assert scored.parts["r"] == [None if total is None else 0.5] * 4


def test_a_reward_of_no_weight_is_measured() -> None:
    scored = score([Reward("r", constant("r", 0.5), 0.0, always)], PROBLEMS, RESPONSES, progress=0.5)
    assert (scored.total, scored.parts["r"]) == ([0.0] * 4, [0.5] * 4)


def test_an_error_masks_its_sample_alone_and_adds_nothing() -> None:
    rewards = [Reward("v", each(failing("2")), 1.0, always), Reward("a", constant("a", 0.5), 1.0, always)]
    scored = score(rewards, PROBLEMS, RESPONSES, progress=0.0, max_error_rate=0.25)
    assert scored.valid == [True, True, False, True]
    assert scored.total == [1.5, 1.5, 0.5, 1.5]
    assert scored.parts["v"] == [1.0, 1.0, None, 1.0]


def test_too_many_errors_stop_the_run_and_quote_the_first() -> None:
    rewards = [Reward("v", each(failing("1", "2")), 1.0, always)]
    with pytest.raises(VerifierError, match=r"'v' failed on 2 of 4.*25%.*broke on 1"):
        score(rewards, PROBLEMS, RESPONSES, progress=0.0, max_error_rate=0.25)
    assert score(rewards, PROBLEMS, RESPONSES, progress=0.0, max_error_rate=0.5).valid.count(False) == 2


def test_the_message_names_the_problem_and_the_start_of_the_response() -> None:
    with pytest.raises(VerifierError, match=r"the first is to problem '1', '1', and says: broke on 1"):
        score([Reward("v", each(failing("1", "2")), 1.0, always)], PROBLEMS, RESPONSES, progress=0.0)
    long = Response("", None, False, untagged="word " * 100)
    with pytest.raises(VerifierError) as caught:
        score([Reward("v", each(failing("0")), 1.0, always)], PROBLEMS[:1], [long], progress=0.0)
    assert "'word word" in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), None, "1", torch.tensor(1.0), 1j])
def test_a_score_that_is_no_finite_number_is_an_error_of_its_reward(value: Any) -> None:
    rewards = [Reward("odd", constant("x", value), 1.0, always), Reward("a", constant("a", 0.5), 1.0, always)]
    scored = score(rewards, PROBLEMS, RESPONSES, progress=0.0, max_error_rate=1.0)
    assert scored.valid == [False] * 4 and scored.total == [0.5] * 4 and scored.parts["odd"] == [None] * 4
    with pytest.raises(VerifierError, match=r"'odd' failed on 4 of 4.*reward 'odd' gives .*no finite number"):
        score(rewards, PROBLEMS, RESPONSES, progress=0.0)


@pytest.mark.parametrize("value", ["right", float("nan"), None])
def test_what_is_no_verdict_is_an_error_of_its_reward(value: Any) -> None:
    with pytest.raises(VerifierError, match=f"'odd' failed on 4 of 4.*gives {value!r}, which is no Verdict"):
        score([Reward("odd", lambda p, r: [value] * 4, 1.0, always)], PROBLEMS, RESPONSES, progress=0.0)


def test_a_judge_that_raises_has_failed_on_its_sample_or_on_all() -> None:
    def one(problem: Problem, response: Response) -> Verdict:
        if problem.id == "2":
            raise IndexError("too far")
        return Verdict("v", Status.RIGHT, 1.0)

    def many(problems: Sequence[Problem], responses: Sequence[Response]) -> list[Verdict]:
        raise IndexError("too far")

    rewards = [Reward("v", each(one), 1.0, always)]
    scored = score(rewards, PROBLEMS, RESPONSES, progress=0.0, max_error_rate=0.3)
    assert scored.valid == [True, True, False, True]
    for judge in (each(one), many):
        with pytest.raises(VerifierError, match=r"it raised IndexError\('too far'\)"):
            score([Reward("v", judge, 1.0, always)], PROBLEMS, RESPONSES, progress=0.0)


def test_the_rate_is_of_the_problems_that_the_reward_judges() -> None:
    rewards = [Reward("v", each(failing("1")), 1.0, lambda p: p.task == "chain")]
    with pytest.raises(VerifierError, match="1 of 2"):
        score(rewards, PROBLEMS, RESPONSES, progress=0.0, max_error_rate=0.3)


def test_a_judge_that_loses_a_verdict_is_caught() -> None:
    with pytest.raises(ValueError, match="zip"):
        score([Reward("v", lambda p, r: [], 1.0, always)], PROBLEMS, RESPONSES, progress=0.0)


def test_no_rewards_and_no_samples() -> None:
    assert score([], PROBLEMS, RESPONSES, progress=0.0).total == [0.0] * 4
    assert score([Reward("a", constant("a", 1.0), 1.0, always)], [], [], progress=0.0).parts == {"a": []}
