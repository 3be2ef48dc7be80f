"""Blocks of docs/mla.md."""

from __future__ import annotations

from pathlib import Path

from aha.util.benchmarks import load_benchmark
from building.results import Results
from building.table import table


def cache(results: Results, root: Path) -> str:
    """The cache of published models, as ``aha bench cache`` counts it."""
    found = load_benchmark("cache")(picture=None)
    context = found["setting"]["context"]
    headings = ("model", "numbers a token and layer", "bytes a token", f"GiB for {context:,} tokens")
    cells = [
        (row["name"], f"{row['values_per_token_and_layer']:,}", f"{row['bytes_per_token']:,}", f"{row['GiB']:g}")
        for row in found["rows"]
    ]
    return table(headings, cells)
