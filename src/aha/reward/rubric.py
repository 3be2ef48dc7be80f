"""Named rewards, weighed and summed: each has a weight, problems it applies to, and a time from which it counts.

Every verdict is kept unweighted for the log. A verifier that fails masks the sample instead of calling it wrong; too
many failures stop the run (``VerifierError``), since a policy would learn to please a broken judge. A score that is no
finite number is such a failure, and so is a judge that raises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aha.errors import AhaError, VerifierError
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
    """A judge of one response as a judge of many; where it raises it has failed on that response alone."""

    def judge_one(problem: Problem, response: Response) -> Verdict:
        try:
            return judge(problem, response)
        except Exception as error:
            return _raised("", error)

    return lambda problems, responses: [judge_one(p, r) for p, r in zip(problems, responses, strict=True)]


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
        verdicts = _judge(reward, [problems[i] for i in rows], [responses[i] for i in rows])
        verdicts = [_checked(reward.name, verdict) for verdict in verdicts]
        failed = []
        for i, verdict in zip(rows, verdicts, strict=True):
            if verdict.status is Status.ERROR:
                valid[i] = False
                failed.append((i, verdict.note))
            else:
                scores[i] = verdict.score
                total[i] += share * reward.weight * verdict.score
        if len(failed) > max_error_rate * max(len(verdicts), 1):
            first, note = failed[0]
            raise VerifierError(
                f"reward {reward.name!r} failed on {len(failed)} of {len(verdicts)} responses (allowed "
                f"{max_error_rate:.0%}); the first is to problem {problems[first].id!r}, {_start(responses[first])!r}, "
                f"and says: {note}"
            )
        parts[reward.name] = scores
    return Scored(total, parts, valid)


def _judge(reward: Reward, problems: Sequence[Problem], responses: Sequence[Response]) -> Sequence[Verdict]:
    """A judge that raises has failed on all that it was given: the run's threshold decides, with its message."""
    if not problems:
        return []
    try:
        return reward.judge(problems, responses)
    except AhaError:
        raise  # made for people already
    except Exception as error:
        return [_raised(reward.name, error)] * len(problems)


def _raised(name: str, error: Exception) -> Verdict:
    return Verdict(name, Status.ERROR, 0.0, f"it raised {error!r}"[:400])


def _checked(name: str, verdict: Verdict) -> Verdict:
    """A score that is no finite number would spread to every sample of its group: it is an error of the reward."""
    if not isinstance(verdict, Verdict):
        return Verdict(name, Status.ERROR, 0.0, f"reward {name!r} gives {verdict!r:.80}, which is no Verdict")
    if verdict.status is Status.ERROR or (isinstance(verdict.score, int | float) and math.isfinite(verdict.score)):
        return verdict
    note = f"reward {name!r} gives {verdict.score!r}, which is no finite number"
    return Verdict(name, Status.ERROR, 0.0, note)


def _start(response: Response) -> str:
    return (response.answer or response.untagged or response.think)[:80]
