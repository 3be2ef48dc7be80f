"""A buffer of hard problems that are asked again: hard ones go in, those that were solved go out."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aha.errors import CheckpointError, SettingError


@dataclass
class ReplayBuffer:
    """Keys of problems that went wrong, the longest waiting first: ``ReplayBuffer(capacity=500, share=0.25)``.

    A problem of which at most ``hard`` of the answers are right goes in (again: to the end), any other leaves; the
    longest waiting one makes room. Of a step's problems up to ``share`` come from here. Size and share are those of
    Arithmo-Transformer; what counts as hard is not published and ours. It replays problems and never their old
    completions, so training stays on policy.
    """

    capacity: int = 500
    share: float = 0.25
    hard: float = 0.0
    waiting: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.capacity < 1 or not 0 <= self.share <= 1 or not 0 <= self.hard < 1:
            raise SettingError(
                f"a replay buffer of capacity={self.capacity} (from 1), share={self.share} (0 to 1), hard={self.hard} "
                "(0 to below 1)"
            )

    def choose(self, count: int, rng: random.Random) -> list[str]:
        """Keys to ask again in a step of ``count`` problems: at most ``round(share * count)``, at random; the caller
        fills up with others. They stay until :meth:`record` says how they went."""
        return rng.sample(self.waiting, min(len(self.waiting), round(self.share * count)))

    def record(self, results: Iterable[tuple[str, int, int]]) -> None:
        """(problem's key, right answers, answers that could be judged) of a step's groups, as for a ``ProblemPool``."""
        for name, right, total in results:
            if not total:
                continue
            if name in self.waiting:
                self.waiting.remove(name)
            if right <= self.hard * total:
                self.waiting.append(name)
        del self.waiting[: -self.capacity]

    def to_json(self) -> dict[str, Any]:
        """What :meth:`from_json` continues from."""
        return {"waiting": list(self.waiting)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any], **settings: Any) -> ReplayBuffer:
        """The buffer that :meth:`to_json` wrote, with its settings; ``CheckpointError`` when it does not fit."""
        names = record.get("waiting")
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names) or len(set(names)) < len(names):
            raise CheckpointError(f"a saved replay buffer does not fit: {str(names)[:80]}; start the stage again")
        buffer = cls(**settings)
        buffer.waiting = names[-buffer.capacity :]
        return buffer
