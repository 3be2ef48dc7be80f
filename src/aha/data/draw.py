"""Drawing by weight without repetition."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TypeVar

from aha.errors import DataError

T = TypeVar("T")


def check_enough(available: int, count: int) -> None:
    """``DataError`` when a step asks more different problems than there are."""
    if available < count:
        raise DataError(f"a step asks {count} different problems, there are only {available}: add some, or ask fewer")


def weighted_sample(items: Sequence[T], weights: Sequence[float], count: int, rng: random.Random) -> list[T]:
    """``count`` different items: one after the other, each with a chance in proportion to its weight among those left.

    An item of weight 0 is drawn only when no other is left, and then each with the same chance. The ``count`` largest
    of ``log(u) / weight`` with uniform ``u`` are such a sample (Efraimidis and Spirakis 2006).
    """
    draws = [rng.random() for _ in items]
    keys = [
        (weight > 0, (math.log(u) if u else -math.inf) / weight if weight > 0 else u)
        for u, weight in zip(draws, weights, strict=True)
    ]
    chosen = sorted(range(len(items)), key=keys.__getitem__, reverse=True)[:count]
    return [items[i] for i in chosen]
