"""Which problems the steps of a stage ask: of several sets, of general prompts, and hard ones again.

A step asks, in one round or more, and records how its groups went before the next step asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from aha.data.pool import Choice, ProblemPool
from aha.data.replay import ReplayBuffer
from aha.errors import DataError, InvariantError, SettingError
from aha.records import FinishReason, Problem
from aha.stages.rollout import Rollout
from aha.util.seeds import python_rng


@dataclass
class Tally:
    """What a stage has asked so far: of each set of problems, hard ones that are asked again left out; general prompts,
    and all prompts since there are general ones. And until their lengths are checked, how many groups have finished,
    and how many of their completions were cut."""

    sets: list[int]
    general: int = 0
    since_general: int = 0
    groups: int = 0
    cut: int = 0


class Asking:
    """``prompts`` problems a step: of ``sets``, each asked equally often, each step's by ``choice``.

    From ``general_start`` of the ``steps`` on ``general_share`` of the prompts are ``general`` ones, and up to
    ``replay`` of the others are hard ones that went wrong before. ``DataError`` where there are too few general
    prompts.
    """

    def __init__(
        self,
        sets: Sequence[Sequence[Problem]],
        general: Sequence[Problem],
        *,
        choice: Choice,
        replay: float,
        prompts: int,
        steps: int,
        general_share: float,
        general_start: float,
    ) -> None:
        self.num_sets = len(sets)
        self._general, self._prompts, self._steps = general, prompts, steps
        self._general_prompts, self._general_start = round(general_share * prompts), general_start
        if len(general) < (wanted := self._num_general(steps)):
            raise DataError(f"a step asks {wanted} general prompts, there are only {len(general)}")
        self._pools = [ProblemPool.of(problems, choice) for problems in sets]
        self._keys = [{problem.key for problem in problems} for problems in sets]
        self._hard = ReplayBuffer(share=replay)
        self.tally = Tally([0] * self.num_sets)

    def ask(self, count: int, asked: Sequence[Problem], *, seed: int, step: int, number: int) -> list[Problem]:
        """Hard ones again, equally many of each set (what is left over is of those that were asked least so far), then
        the general ones, as many as keep their share of all that was asked: none that was ``asked`` already, and all
        counted in ``tally``. In a later round, ``number`` from 1, only reasoning problems, and fewer where there are no
        more."""
        pools, tally = self._pools, self.tally
        rng = python_rng(seed, "problems", step, number) if number else python_rng(seed, "problems", step)
        known = {problem.key for problem in asked}
        others = [problem for problem in self._general if problem.key not in known]
        quota = 0 if number else self._num_general(step)
        if quota:  # from the sum, as a step that asks one or two has no share of its own
            tally.since_general += count
        behind = quota * tally.since_general // self._prompts - tally.general
        num_general = max(0, min(behind, count, len(others)))
        tally.general += num_general
        again: set[str] = set()
        if not number:
            again = set(self._hard.choose(count - num_general, python_rng(seed, "replay", step))) - known
        chosen = list({p.key: p for pool in pools for p in pool.problems if p.key in again}.values()) if again else []
        share, left_over = divmod(count - num_general - len(chosen), len(pools))
        if 0 < self._prompts - self._num_general(step) < len(pools):
            raise SettingError(f"prompts={self._prompts} leaves some of {len(pools)} sets of problems out; raise it")
        known |= {problem.key for problem in chosen}
        least = sorted(range(len(pools)), key=tally.sets.__getitem__)[:left_over]
        for i, pool in enumerate(pools):
            left = replace(pool, problems=[p for p in pool.problems if p.key not in known]) if known else pool
            wanted = share + (i in least)
            if number:
                wanted = min(wanted, len(left.problems))
            chosen += left.choose(wanted, rng, progress=step / self._steps)
            tally.sets[i] += wanted
        return [*chosen, *rng.sample(others, num_general)]

    def record(self, rollout: Rollout) -> None:
        """Takes over how a step's groups went. ``InvariantError`` where most of the stage's first ``prompts`` groups
        were cut: what ends in a first piece is short and says nothing of the rest."""
        results = rollout.results
        for pool, own in zip(self._pools, self._keys, strict=True):
            pool.record(result for result in results if result[0] in own)
        self._hard.record(results)
        tally = self.tally
        if tally.groups >= self._prompts:
            return
        tally.groups += len(rollout.groups)
        tally.cut += sum(reason is FinishReason.LENGTH for reason in rollout.finish)
        truncated = tally.cut / (tally.groups * rollout.rewards_PG.shape[1])
        if tally.groups >= self._prompts and truncated > 0.5:
            raise InvariantError(
                f"{truncated:.0%} of the first completions were cut at max_new_tokens: their rewards say nothing; "
                "raise it"
            )

    def to_json(self, tally: Tally) -> dict[str, Any]:
        """What :meth:`load` continues from, with the tally of a step after which others may have been asked."""
        return {
            "pools": [pool.to_json() for pool in self._pools],
            "replay": self._hard.to_json(),
            "tally": asdict(tally),
        }

    def load(self, record: Mapping[str, Any]) -> None:
        """Goes on from what :meth:`to_json` wrote; ``CheckpointError`` where it does not fit."""
        self._pools = [
            ProblemPool.from_json(pool.problems, pool.choice, saved)
            for pool, saved in zip(self._pools, record["pools"], strict=True)
        ]
        self._hard = ReplayBuffer.from_json(record["replay"], share=self._hard.share)
        # A state of an earlier version has counted nothing, and has checked its lengths.
        self.tally = Tally(**record.get("tally", {"sets": self.tally.sets, "groups": self._prompts}))

    def _num_general(self, step: int) -> int:
        return self._general_prompts if step >= self._general_start * self._steps else 0
