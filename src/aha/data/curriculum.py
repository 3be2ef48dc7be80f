"""Which problems a step may ask: all of them, or the easy ones first."""

from __future__ import annotations

import random
from collections.abc import Sequence

from aha.errors import DataError
from aha.records import Problem


def choose_problems(
    problems: Sequence[Problem], count: int, rng: random.Random, *, progress: float, curriculum: bool
) -> list[Problem]:
    """``count`` different problems. With ``curriculum`` the allowed levels (``meta["level"]``) grow evenly over the
    first half of training, so that the second half asks everything (k1.5 and Open-Reasoner-Zero order by difficulty
    alike). ``DataError`` when there are fewer."""
    pool = problems
    if curriculum:
        levels = sorted({_level(p) for p in problems})
        allowed = set(levels[: 1 + int(min(1.0, 2 * progress) * (len(levels) - 1) + 1e-9)])
        pool = [p for p in problems if _level(p) in allowed]
    if len(pool) < count:
        asked = f"of the levels allowed at {progress:.0%} of training" if curriculum else "of training"
        raise DataError(
            f"a step asks {count} different problems, there are only {len(pool)} {asked}: add some, or ask fewer"
        )
    return rng.sample(pool, count)


def _level(problem: Problem) -> int:
    level = problem.meta.get("level", 0)
    try:
        return int(level)
    except (ValueError, TypeError):
        raise DataError(
            f"problem {problem.id!r}: a curriculum needs whole numbers as 'level', found {level!r}"
        ) from None
