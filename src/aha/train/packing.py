"""Which documents share a row."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence


def best_fit(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Indices of documents in rows of ``width`` tokens: each goes, longest first, where it leaves the least space.

    Every length is at most ``width``. Rows come in the order in which they were opened. DeepSeek packs its training
    batches so (2501.12948v2, B.1).
    """
    rows: list[list[int]] = []
    spaces: list[tuple[int, int]] = []  # (tokens left, row), sorted
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = bisect_left(spaces, (lengths[index], 0))
        if place == len(spaces):
            rows.append([])
            space, row = width, len(rows) - 1
        else:
            space, row = spaces.pop(place)
        rows[row].append(index)
        insort(spaces, (space - lengths[index], row))
    return rows
