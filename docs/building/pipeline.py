"""Blocks of docs/pipeline.md."""

from __future__ import annotations

from pathlib import Path

from aha.util.benchmarks import load_benchmark
from building.results import Results
from building.table import table


def schedules(results: Results, root: Path) -> str:
    """Pipeline schedules side by side, as ``aha bench pipeline`` simulates them."""
    rows = load_benchmark("pipeline")(picture=None)["rows"]
    spread = [[f"{x:g}" for x in (min(row["bubbles"]), max(row["bubbles"]))] for row in rows]
    cells = [
        (
            row["name"],
            str(row["ranks"]),
            str(row["micro_batches"]),
            f"{row['makespan']:g}",
            low if low == high else f"{low} to {high}",
            f"{row['formula']:g}",
            str(max(row["peak_activations"])),
            str(row["stages_per_rank"]),
        )
        for row, (low, high) in zip(rows, spread, strict=True)
    ]
    headings = (
        "schedule", "ranks", "micro-batches", "time", "a rank idles", "V3's table 2", "held at most", "stages a rank"
    )  # fmt: skip
    return table(headings, cells)
