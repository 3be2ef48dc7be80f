"""What a strategy is: a generator that asks for texts to be continued or judged, and ends with its choice.

A strategy never holds an engine or a model. It yields a ``Write`` or a ``Judge`` and is sent the answer, so the driver
(``search/driver.py``) can put the requests of many problems into one call and count every token in one place, and a
test can play the engine by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from aha.records import FinishReason
from aha.rollout.engine import SamplingParams


@dataclass(frozen=True, slots=True)
class Path:
    """A text being written: ``Path((5, 9), (7, 8), FinishReason.STOP)`` has written two tokens and ended a step.

    ``token_ids`` are those after the prompt, sampled or put there by a strategy. ``finish_reason`` is the engine's,
    ``None`` where nothing was sampled last.
    """

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None

    def is_open(self, params: SamplingParams) -> bool:
        """Whether there is more to write: it neither ended nor has the ``max_new_tokens`` of a whole text."""
        return self.finish_reason in (None, FinishReason.STOP) and len(self.token_ids) < params.max_new_tokens


@dataclass(frozen=True, slots=True)
class Write:
    """Continue each path ``copies`` times. ``params.max_new_tokens`` bounds the whole text, with what is written."""

    paths: tuple[Path, ...]
    copies: int
    params: SamplingParams


@dataclass(frozen=True, slots=True)
class Judge:
    """Score each step of each path."""

    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """The path a strategy answers with, and all whole texts that it chose from."""

    path: Path
    candidates: tuple[Path, ...]


Strategy = Generator[Write | Judge, Any, Choice]
Scorer = Callable[[Sequence[Path]], list[tuple[float, ...]]]
"""The chance, from 0 to 1, that each step of a path is on the way to a right answer; at least one number a path. A
scorer of outcomes gives one."""
Key = Callable[[Path], Hashable | None]
"""What a vote counts as a path's answer; ``None`` where it has none."""


def write(
    paths: Sequence[Path], copies: int, params: SamplingParams
) -> Generator[Write | Judge, Any, list[list[Path]]]:
    """``copies`` continuations of each path, in order."""
    children: list[list[Path]] = yield Write(tuple(paths), copies, params)
    return children


def judge(paths: Sequence[Path]) -> Generator[Write | Judge, Any, list[tuple[float, ...]]]:
    """The scores of the steps of each path, in order; no path, no request."""
    if not paths:
        return []
    scores: list[tuple[float, ...]] = yield Judge(tuple(paths))
    return scores
