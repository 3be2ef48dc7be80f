"""Named rewards, weighed and summed: each has a weight, problems it applies to, and a time from which it counts.

Every verdict is kept unweighted for the log. A verifier that fails masks the sample instead of calling it wrong; too
many failures stop the run (``VerifierError``), since a policy would learn to please a broken judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aha.errors import VerifierError
from aha.records import Problem, Status, Verdict
from aha.reward.response import Response
from aha.reward.schedule import weight_at

Judge = Callable[[Sequence[Problem], Sequence[Response]], Sequence[Verdict]]


@dataclass(frozen=True)
class Reward:
    """``Reward("language", each(rules.language), weight=0.3, applies=is_reasoning, start=0.0)``.

    ``start`` is the share of the stage's steps after which the reward counts: DeepSeek-R1 adds preference rewards only
    in the last 400 of 1,700 steps (R1v2 3.2.2), because longer use invites reward hacking. ``end`` and ``ramp`` let it
    end early and come and go gradually (reward/schedule.py).
    """

    name: str
    judge: Judge
    weight: float
    applies: Callable[[Problem], bool]
    start: float = 0.0
    end: float | None = None
    ramp: float = 0.0

    def share_at(self, progress: float) -> float:
        """The share of ``weight`` that counts at ``progress``; where it is 0 the judge is not asked."""
        return weight_at(progress, start=self.start, end=self.end, ramp=self.ramp)


@dataclass(frozen=True)
class Scored:
    """Rewards of N completions: ``total`` weighted sums, ``parts[name]`` unweighted scores (``None`` where the reward
    does not apply, has not started or failed), ``valid`` False where a verifier failed."""

    total: list[float]
    parts: Mapping[str, list[float | None]]
    valid: list[bool]


def each(judge: Callable[[Problem, Response], Verdict]) -> Judge:
    """A judge of one response as a judge of many."""
    return lambda problems, responses: [judge(p, r) for p, r in zip(problems, responses, strict=True)]


def score(
    rewards: Sequence[Reward],
    problems: Sequence[Problem],
    responses: Sequence[Response],
    *,
    progress: float,
    max_error_rate: float = 0.05,
) -> Scored:
    """Judge N responses. ``progress`` in [0, 1] is how far the stage is, for rewards that do not count all the time."""
    total, valid = [0.0] * len(problems), [True] * len(problems)
    parts: dict[str, list[float | None]] = {}
    for reward in rewards:
        scores: list[float | None] = [None] * len(problems)
        share = reward.share_at(progress)
        rows = [i for i, problem in enumerate(problems) if reward.applies(problem)] if share else []
        verdicts = reward.judge([problems[i] for i in rows], [responses[i] for i in rows]) if rows else []
        for i, verdict in zip(rows, verdicts, strict=True):
            if verdict.status is Status.ERROR:
                valid[i] = False
            else:
                scores[i] = verdict.score
                total[i] += share * reward.weight * verdict.score
        errors = sum(v.status is Status.ERROR for v in verdicts)
        if errors > max_error_rate * max(len(verdicts), 1):
            first = next(v for v in verdicts if v.status is Status.ERROR)
            raise VerifierError(
                f"reward {reward.name!r} failed on {errors} of {len(verdicts)} responses (allowed "
                f"{max_error_rate:.0%}); the first says: {first.note}"
            )
        parts[reward.name] = scores
    return Scored(total, parts, valid)
