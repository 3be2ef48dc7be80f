"""Blocks of docs/moe.md."""

from __future__ import annotations

from pathlib import Path

from building.results import Results, read_measured
from building.table import table


def expert_load(results: Results, root: Path) -> str:
    """What ``benchmarks/expert_load.py`` found."""
    if (found := read_measured(root, "expert_load")) is None:
        return ""
    words = "MaxVio over the steps of every arm, and the load of each expert without and with balancing"
    window = found["window"]
    headings = ("arm", "α", "γ", "loss", "MaxVio of one update", f"of {window} updates", "below 0.1 to the end after")
    rows = [
        (
            f"`{name}`",
            f"{arm['alpha']:g}",
            f"{arm['gamma']:g}",
            f"{arm['loss']:.4f}",
            f"{arm['max_vio_step']:.3f}",
            f"{arm['max_vio_window']:.3f}",
            "–" if arm["even_after"] is None else f"{arm['even_after']} updates",
        )
        for name, arm in found["arms"].items()
    ]
    after = f"After {found['steps']:,} updates, seed {found['seed']}; loss, MaxVio of one: means of the last {window}."
    return f"![{words}](figures/expert_load.png)\n\n{table(headings, rows)}\n\n{after}"
