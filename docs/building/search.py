"""Blocks of docs/search.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aha.report.scaling import scaling_sentences
from building.results import Results, read_measured
from building.table import table


def search_of(name: str) -> Callable[[Results, Path], str]:
    """What ``aha bench search`` found, kept as ``search_NAME.json``: picture, table, and what that says."""

    def block(results: Results, root: Path) -> str:
        if (found := read_measured(root, f"search_{name}")) is None:
            return ""
        words = "Accuracy against generated tokens of every strategy, with 95 % intervals, and pass@k above"
        budgets = sorted({row["budget"] for row in found["rows"]})
        shares: dict[str, dict[int, str]] = {}
        for row in found["rows"]:
            own = row["accuracy"]
            cell = f"{100 * own['value']:.1f} ({100 * own['low']:.1f}–{100 * own['high']:.1f})"
            shares.setdefault(row["strategy"], {})[row["budget"]] = cell
        shares["pass@k"] = {row["k"]: f"{100 * row['value']:.1f}" for row in found["oracle"]}
        rows = [(strategy, *(own.get(n, "") for n in budgets)) for strategy, own in shares.items()]
        shown = table(("strategy, %", *(f"N = {n}" for n in budgets)), rows)
        said = "\n".join(f"- {sentence[0].upper()}{sentence[1:]}." for sentence in scaling_sentences(found))
        setting = found["setting"]
        under = f"{found['problems']} problems of `{found['bench']}`, temperature {setting['temperature']:g}."
        return f"![{words}](figures/search_{name}.png)\n\n{under}\n\n{shown}\n\n{said}"

    return block
