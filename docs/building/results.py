"""What blocks are made of: runs' summaries in ``docs/results``, and what benchmarks found in ``docs/measured``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aha.util.files import read_json

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""The summaries of each recipe, by seed."""


def load_results(root: Path) -> dict[str, list[dict[str, Any]]]:
    """``docs/results/*.json`` by recipe, each in the order of the seeds."""
    results: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((root / "docs" / "results").glob("*.json")):
        summary = read_json(path)
        results.setdefault(summary["recipe"], []).append(summary)
    return {recipe: sorted(found, key=lambda summary: int(summary["seed"])) for recipe, found in results.items()}


def first_of(results: Results, recipe: str) -> Mapping[str, Any] | None:
    """The summary of the lowest seed, if there is one."""
    return results[recipe][0] if results.get(recipe) else None


def read_measured(root: Path, name: str) -> Any:
    """What a benchmark wrote down, where it did."""
    path = root / "docs" / "measured" / f"{name}.json"
    return read_json(path) if path.is_file() else None
