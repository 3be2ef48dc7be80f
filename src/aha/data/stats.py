"""How long, of what domain, task and language the rows of a data set are, and how often they were answered right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aha.data.fields import read_named
from aha.data.files import Rejected, find_files

GROUPS = ("subject", "domain", "task", "language", "lang", "level", "source")
MOST_GROUPS = 50
QUANTILES = (0, 5, 25, 50, 75, 95, 100)


def compute_stats(sources: Sequence[str | Path]) -> dict[str, Any]:
    """Rows, rejected rows, ``lengths`` in words (white space between them) by text field, ``groups`` of the fields that
    tell a kind, and ``pass_rates``. One pass; eight bytes a row and field are kept. ``DataError`` where no row can be
    used."""
    lengths: dict[str, list[int]] = {}
    groups: dict[str, Counter[str]] = {}
    rates: list[float] = []
    rows = rejected = 0
    for row in read_named(find_files(sources)):
        if isinstance(row, Rejected):
            rejected += 1
            continue
        rows += 1
        for name in ("problem", "completion", "solution"):
            if isinstance(text := row.fields.get(name), str):
                lengths.setdefault(name, []).append(len(text.split()))
        for name in GROUPS:
            if isinstance(value := row.fields.get(name), str | int):
                groups.setdefault(name, Counter())[str(value)] += 1
        if isinstance(rate := row.fields.get("pass_rate"), int | float):
            rates.append(float(rate))
    return {
        "rows": rows,
        "rejected": rejected,
        "lengths": {name: _described(values) for name, values in lengths.items()},
        "groups": {name: dict(counts.most_common(MOST_GROUPS)) for name, counts in groups.items()},
        "pass_rates": np.histogram(rates, bins=10, range=(0, 1))[0].tolist() if rates else [],
    }


def _described(values: Sequence[int]) -> dict[str, Any]:
    """Mean, quantiles, and a histogram whose bins double: [0, 1), [1, 2), [2, 4), ..."""
    array = np.array(values)
    edges = [0, *(2**i for i in range(int(array.max()).bit_length() + 1))]
    quantiles = np.percentile(array, QUANTILES).tolist()
    return {
        "mean": float(array.mean()),
        "quantiles": dict(zip(map(str, QUANTILES), quantiles, strict=True)),
        "edges": edges,
        "counts": np.histogram(array, edges)[0].tolist(),
    }
