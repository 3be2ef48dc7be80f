"""From judgements of two responses to pairs that are clear and as long on either side, by DeepSeek-R1's rules.

A pair that was judged several times (there four, its responses shown in random order) gets the mean of its scores, and
is kept where the gap is over 1; chosen and rejected responses are about as long over the whole set (R1v2 3.1, B.2).
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from aha.errors import DataError, nearest

Shown = Literal["a", "b"]
LEVELS = {"A>>B": 2.0, "A>B": 1.0, "A=B": 0.0, "B>A": -1.0, "B>>A": -2.0}
"""The five verdicts of an arena-hard judge, as what the response that was shown first is better by."""
GAP = 1.0


def mean_gap(judgements: Sequence[tuple[Shown, str]]) -> float:
    """What response a is better by, in [-2, 2]: the mean over ``(which was shown first, verdict)``.

    ``mean_gap([("a", "A>>B"), ("b", "B>A")]) == 1.5``. ``DataError`` for none, or for a verdict that is no level.
    """
    if not judgements:
        raise DataError("a pair without judgements")
    total = 0.0
    for first, verdict in judgements:
        if verdict not in LEVELS:
            raise DataError(f"{verdict!r} is no verdict; {nearest(str(verdict), LEVELS)}")
        if first not in ("a", "b"):
            raise DataError(f"{first!r} was shown first; it has to be 'a' or 'b'")
        total += LEVELS[verdict] if first == "a" else -LEVELS[verdict]
    return total / len(judgements)


def balanced(differences: Sequence[int], rng: random.Random) -> list[int]:
    """Which pairs to keep, in their order, so that length says nothing about preference.

    ``differences`` are length of the chosen response minus length of the rejected one. Among the pairs whose difference
    is about as large (within a power of two), as many are kept in which the longer response is chosen as in which the
    shorter one is, at random; those of equal lengths all.
    """
    sides: dict[tuple[int, bool], list[int]] = defaultdict(list)
    for index, difference in enumerate(differences):
        sides[abs(difference).bit_length(), difference > 0].append(index)
    kept: list[int] = []
    for size in sorted({size for size, _ in sides}):
        longer, shorter = sides[size, True], sides[size, False]
        count = min(len(longer), len(shorter))
        kept += shorter if size == 0 else rng.sample(longer, count) + rng.sample(shorter, count)
    return sorted(kept)
