"""Blocks of docs/papers.md."""

from __future__ import annotations

from pathlib import Path

from aha.objective.algorithms import ALGORITHMS
from aha.objective.describe import describe
from building.results import Results
from building.table import table


def algorithms(results: Results, root: Path) -> str:
    """The table of algorithms as the program holds it."""
    rows = [(f"`{row.name}`", *describe(row).values()) for row in ALGORITHMS.values()]
    notes = "\n".join(f"- `{row.name}`: {row.citation}" for row in ALGORITHMS.values())
    return table(("algorithm", *describe(ALGORITHMS["grpo"])), rows) + "\n\n" + notes
