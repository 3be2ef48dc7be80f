"""The winner of a vote, plain or weighted."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def majority(keys: Sequence[Hashable | None]) -> Hashable | None:
    """The most frequent key; ties go to the one seen first; ``None`` abstains."""
    return weighted_majority(keys, [1.0] * len(keys))


def weighted_majority(keys: Sequence[Hashable | None], weights: Sequence[float]) -> Hashable | None:
    """The key with the largest sum of weights; ties go to the one seen first; ``None`` abstains."""
    sums: dict[Hashable, float] = {}
    for key, weight in zip(keys, weights, strict=True):
        if key is not None:
            sums[key] = sums.get(key, 0.0) + weight
    return max(sums, key=sums.__getitem__) if sums else None
