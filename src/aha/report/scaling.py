"""The picture of test-time scaling (accuracy against generated tokens, a curve a strategy, the oracle above), and what
it says in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from aha.report.plots import FAINT, INK, PALETTE


def save_scaling_figure(found: Mapping[str, Any], path: Path) -> None:
    """Of what ``stages.scaling.measure_scaling`` returns; the type of the file is that of its name."""
    figure = Figure(figsize=(8.4, 4.6), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(row["strategy"] for row in found["rows"]))
    for place, name in enumerate(names):
        rows = sorted((r for r in found["rows"] if r["strategy"] == name), key=lambda r: r["tokens"]["value"])
        x = [row["tokens"]["value"] for row in rows]
        y = [100 * row["accuracy"]["value"] for row in rows]
        error = [
            [100 * (row["accuracy"]["value"] - row["accuracy"]["low"]) for row in rows],
            [100 * (row["accuracy"]["high"] - row["accuracy"]["value"]) for row in rows],
        ]
        line = "-" if place < len(PALETTE) - 1 else "--"
        tint = PALETTE[place % (len(PALETTE) - 1)]
        axes.errorbar(x, y, error, color=tint, linestyle=line, marker="osD^vPX*"[place % 8], capsize=2, label=name)
    votes = {row["budget"]: row["tokens"]["value"] for row in found["rows"] if row["strategy"] == "vote"}
    oracle = found["oracle"]
    axes.plot(
        [votes[o["k"]] for o in oracle], [100 * o["value"] for o in oracle], color=INK, linestyle=":", label="pass@k"
    )
    axes.set_xscale("log", base=2)
    axes.set_xlabel("generated tokens a problem")
    axes.set_ylabel("accuracy, %")
    axes.grid(color=FAINT, linewidth=0.5)
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(path)


def scaling_sentences(found: Mapping[str, Any]) -> list[str]:
    """What is better than what, by how much, and whether that is more than chance; and how well the scorer ranks."""
    said = []
    for row in found["comparisons"]:
        gap = f"{100 * row['value']:+.1f} points ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})"
        verdict = "more than chance" if row["real"] else "within chance"
        which = "" if row["bins"] == "all" else f", the {row['bins']} ones"
        better = "beats" if row["real"] and row["value"] > 0 else "does not beat"
        said.append(
            f"{row['second']} {better} {row['first']} on {row['problems']} problems{which}: "
            f"{100 * row['of_second']:.1f} % against {100 * row['of_first']:.1f} %, {gap}, p {row['p_value']:.2g}: "
            f"{verdict}"
        )
    if ranking := found["ranking"]:
        by = [
            f"{100 * own['value']:.1f} % ({100 * own['low']:.1f} to {100 * own['high']:.1f}) by the {name} step"
            for name, own in ranking.items()
        ]
        said.append(
            "the scorer puts a right text over a wrong one of the same problem in " + " and ".join(by)
            + "; a coin does in 50 %, and a beam needs the first steps"
        )
    costs = found["costs"]
    said.append(
        f"a token of a vote over 64 takes {costs['vote']:.2f}x one of plain sampling, one of a beam of 16 "
        f"{costs['beam']:.2f}x"
        + (f", {costs['beam_scored']:.2f}x with its scorer" if "beam_scored" in costs else "")
    )
    return said
