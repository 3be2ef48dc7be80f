"""Scores of kept generations: what they are worth, how sure that is, and what else is seen beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aha.errors import UsageError
from aha.evaluate.bootstrap import again_interval, bootstrap_interval, percentile_interval
from aha.evaluate.estimators import Estimate, cons_values, pass_values
from aha.evaluate.generations import Asked
from aha.evaluate.paired import compare_paired
from aha.evaluate.runner import count_errors, judge_rows, language_shares
from aha.evaluate.votes import Keys, vote_keys
from aha.records import Problem, Status, Verdict
from aha.reward import rules
from aha.reward.extraction import find_answer
from aha.reward.programs import extract_program
from aha.reward.response import Response

GROUPS = ("level", "subject", "language")
MAX_GROUPS = 20


@dataclass(frozen=True)
class Graded:
    """One problem with its samples' verdicts and what they vote for."""

    asked: Asked
    responses: tuple[Response, ...]
    verdicts: tuple[Verdict, ...]
    keys: tuple[str | None, ...]

    @property
    def problem(self) -> Problem:
        return self.asked.problem

    @property
    def correct(self) -> list[bool]:
        return [verdict.status is Status.RIGHT for verdict in self.verdicts]

    @property
    def lengths(self) -> list[int]:
        return [generation.tokens for generation in self.asked.generations]


@dataclass(frozen=True)
class _Read:
    problem: Problem
    responses: tuple[Response, ...]


def grade(asked: Sequence[Asked]) -> list[Graded]:
    """Judge every generation. ``VerifierError`` where the verifier fails on more than 5 %."""
    read = [_Read(one.problem, one.responses) for one in asked]
    verdicts_PK = judge_rows(read)
    count_errors([verdict for row in verdicts_PK for verdict in row])
    keys_PK: list[Keys] = vote_keys([one.problem for one in read], [one.responses for one in read])
    return [
        Graded(one, seen.responses, tuple(verdicts), tuple(keys))
        for one, seen, verdicts, keys in zip(asked, read, verdicts_PK, keys_PK, strict=True)
    ]


def bench_scores(graded: Sequence[Graded]) -> dict[str, Any]:
    """All scores of one bench, each as value, low and high; votes and passes for every power of two up to the samples.

    ``pass@1_again``: the interval if these very problems were sampled again. ``length_right`` and ``length_wrong``:
    tokens of right and wrong samples apart, over the problems that have such.
    """
    values = problem_values(graded)
    sizes = vote_sizes(graded)
    largest = sizes[-1]
    correct = [one.correct for one in graded]
    keys = [one.keys for one in graded]
    scores: dict[str, Any] = {
        name: _estimate(name, values[name])
        for name in dict.fromkeys(("pass@1", f"cons@{largest}", f"pass@{largest}", "format", "answered", "truncated"))
    }
    scores["pass@1_again"] = again_interval(correct).as_dict()
    scores["length"] = _estimate("length", values["length"])
    for name, wanted in (("length_right", True), ("length_wrong", False)):
        if apart := [_mean(picked) for one in graded if (picked := _lengths_where(one, wanted))]:
            scores[name] = _estimate(name, apart)
    if spoken := language_shares(graded):
        scores["language"] = _estimate("language", spoken)
    scores["votes"] = [{"k": k, **_estimate("cons", cons_values(keys, correct, k))} for k in sizes]
    scores["passes"] = [{"k": k, **_estimate("pass", pass_values(correct, k))} for k in sizes]
    scores["verifier_errors"] = sum(v.status is Status.ERROR for one in graded for v in one.verdicts)
    scores["by_task"] = _by_group([one.problem.task for one in graded], values, largest)
    for field in GROUPS:
        groups = [_group(one.problem, field) for one in graded]
        if 1 < len(set(groups)) <= MAX_GROUPS:
            scores[f"by_{field}"] = _by_group(groups, values, largest)
    return scores


def problem_values(graded: Sequence[Graded]) -> dict[str, list[float]]:
    """Each score of every problem: what intervals and paired comparisons are made of."""
    correct, keys = [one.correct for one in graded], [one.keys for one in graded]
    values = {"pass@1": [_mean(row) for row in correct]}
    for k in vote_sizes(graded):
        values[f"cons@{k}"] = cons_values(keys, correct, k)
        values.setdefault(f"pass@{k}", pass_values(correct, k))
    values["format"] = [_mean([rules.format_tags(one.problem, r).score for r in one.responses]) for one in graded]
    values["answered"] = [_mean([_has_answer(one.problem, r) for r in one.responses]) for one in graded]
    values["truncated"] = [_mean([g.truncated for g in one.asked.generations]) for one in graded]
    values["length"] = [_mean(one.lengths) for one in graded]
    return values


def compare_scores(first: Sequence[Graded], second: Sequence[Graded]) -> dict[str, Any]:
    """Second minus first on the same problems. ``UsageError`` where the problems differ. Votes and passes are compared
    up to the fewer samples."""
    for one, other in zip(first, second, strict=False):
        if _identity(one.problem) != _identity(other.problem):
            raise UsageError(f"problem {one.problem.id!r} of the one is not {other.problem.id!r} of the other")
    if len(first) != len(second):
        raise UsageError(f"{len(first)} problems of the one, {len(second)} of the other: evaluate both on the same")
    ours, theirs = problem_values(first), problem_values(second)
    return {name: compare_paired(ours[name], theirs[name]).as_dict() for name in ours if name in theirs}


def vote_sizes(graded: Sequence[Graded]) -> list[int]:
    """Powers of two up to the samples of a problem."""
    return [1 << power for power in range(min(len(one.verdicts) for one in graded).bit_length())]


def _by_group(groups: Sequence[str], values: Mapping[str, Sequence[float]], largest: int) -> dict[str, Any]:
    names = dict.fromkeys(("pass@1", f"cons@{largest}", "length"))
    found: dict[str, Any] = {}
    for group in sorted(set(groups), key=lambda text: (len(text), text)):
        rows = [row for row, one in enumerate(groups) if one == group]
        scores = {name: _estimate(name, [values[name][row] for row in rows]) for name in names if name in values}
        found[group] = {"problems": len(rows), **scores}
    return found


def _estimate(name: str, values_P: Sequence[float]) -> dict[str, float]:
    interval: Callable[[Sequence[float]], Estimate] = (
        percentile_interval if name.startswith("length") else bootstrap_interval
    )
    return interval(values_P).as_dict()


def _has_answer(problem: Problem, response: Response) -> bool:
    if problem.task == "code":
        return extract_program(response) is not None
    return find_answer(problem, response) is not None


def _group(problem: Problem, field: str) -> str:
    return problem.language if field == "language" else str(problem.meta.get(field, ""))


def _identity(problem: Problem) -> tuple[str, str, str]:
    return problem.id, problem.prompt, problem.answer


def _lengths_where(one: Graded, right: bool) -> list[int]:
    return [length for length, correct in zip(one.lengths, one.correct, strict=True) if correct is right]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
