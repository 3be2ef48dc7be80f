"""Blocks of docs/fp8.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from building.results import Results, read_measured
from building.table import table


def errors(results: Results, root: Path) -> str:
    """What ``benchmarks/fp8.py`` found: errors of rounding and of sums, and losses beside those of BF16."""
    if (found := read_measured(root, "fp8")) is None:
        return ""
    outlier = next(row for row in found["outliers"] if row["factor"] == 1e5)
    total = next(row for row in found["sums"] if row["K"] == 4096)
    rows = [
        ("rounding beside a channel of 1e5: one scale for the tensor", _percent(outlier["tensor"])),
        ("the same: a scale for each 1 x 128 tile", _percent(outlier["tiles"])),
        ("a product over 4,096: rounding of its operands to FP8", _percent(total["fp8"])),
        ("the same: sums in 14 bits", _percent(total["unpromoted"])),
        ("the same: sums in 14 bits, promoted every 128", _percent(total["promoted"])),
    ]
    words = "Errors of one scale and of tiles beside an outlier, and of a product by source"
    words += ", and loss against BF16" if found["training"] else ""
    seconds = ", ".join(f"{value:.2f} ({arm})" for arm, value in found["processor_seconds_per_step"].items())
    parts = [
        f"![{words}](figures/fp8.png)",
        table(("relative error (Frobenius)", ""), rows),
        f"A step of the tiny base takes {seconds} seconds of one core ({found['processor']}).",
    ]
    if found["training"]:
        steps = f"{found['training'][0]['steps']:,}"
        heads = ("learning rate", "", f"loss after {steps}", "against BF16", "mean of all steps", "largest")
        parts.append(table(heads, [row for training in found["training"] for row in _fp8_training(training)]))
        parts.append("Losses are smoothed with 0.9. DeepSeek-V3 reports differences below 0.25 % (appendix B.1).")
    return "\n\n".join(parts)


def _fp8_training(training: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for arm, loss in training["loss"].items():
        gaps = training["against_bf16"].get(arm)
        shown = [_percent(gaps[key], sign="+") for key in ("last", "mean", "largest")] if gaps else ["–"] * 3
        yield f"{training['lr']:g}", arm, f"{loss:.4f}", *shown


def _percent(share: float, *, sign: str = "") -> str:
    return f"{100 * share:{sign}.3g} %"
