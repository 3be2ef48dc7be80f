"""Which sequences are computed together."""

from __future__ import annotations

from collections.abc import Sequence


def split_by_tokens(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of sequences in micro-batches of at most ``budget`` tokens, padding counted; every index once.

    Sequences of similar length go together, the longest first, so that too little memory shows at once. A sequence
    longer than the budget is a micro-batch of its own. Equal lengths keep their order.
    """
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or longest * (len(batches[-1]) + 1) > budget:
            batches.append([])
            longest = lengths[index]
        batches[-1].append(index)
    return batches
