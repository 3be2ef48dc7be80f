"""Which problems a step asks: any of them, or easy ones more often at first."""

from __future__ import annotations

import random
from collections.abc import Sequence

from aha.data.draw import check_enough, weighted_sample
from aha.errors import DataError
from aha.records import Problem


def choose_problems(
    problems: Sequence[Problem], count: int, rng: random.Random, *, progress: float, curriculum: bool
) -> list[Problem]:
    """``count`` different problems; ``DataError`` when there are fewer.

    With ``curriculum`` a step begins with easy problems (``meta["level"]``): at the start each level is asked half as
    often as the one below it, from half time on as often as it occurs, in between by a linear blend (k1.5 and
    Open-Reasoner-Zero order by difficulty alike). No level is ever left out: a policy that sees easy problems alone
    learns their short answers by heart and forgets how to work out the others.
    """
    check_enough(len(problems), count)
    if not curriculum:
        return rng.sample(problems, count)
    of_level: dict[int, list[Problem]] = {}
    for problem in problems:
        of_level.setdefault(_level(problem), []).append(problem)
    levels, blend = sorted(of_level), min(1.0, 2 * progress)
    halving = [0.5**rank for rank in range(len(levels))]
    easy = {level: share / sum(halving) for level, share in zip(levels, halving, strict=True)}
    weight = {level: (1 - blend) * easy[level] / len(of_level[level]) + blend / len(problems) for level in levels}
    weights = [weight[_level(problem)] * len(problems) for problem in problems]
    return weighted_sample(problems, weights, count, rng)


def _level(problem: Problem) -> int:
    level = problem.meta.get("level", 0)
    try:
        return int(level)
    except (ValueError, TypeError):
        raise DataError(
            f"problem {problem.id!r}: a curriculum needs whole numbers as 'level', found {level!r}"
        ) from None
