"""Blocks of docs/data.md."""

from __future__ import annotations

from pathlib import Path

from aha.stages.sft_presets import PRESETS
from building.results import Results


def presets(results: Results, root: Path) -> str:
    """The rows of stages/sft_presets.py."""
    heads = ("preset", "epochs", "rate", "last", "batch", "context", "RoPE theta", "warm-up", "clip", "decay", "source")
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for name, row in PRESETS.items():
        share = None if row.warmup_share is None else f"{row.warmup_share:.0%}"
        theta = None if row.rope_theta is None else f"{row.rope_theta:,.0f}"
        cells = (
            f"`{name}`", row.epochs, f"{row.lr:g}", f"{row.final_ratio:g}", row.batch, f"{row.context:,}", theta, share,
            row.max_grad_norm, row.weight_decay, row.source,
        )  # fmt: skip
        lines.append(f"| {' | '.join('' if cell is None else str(cell) for cell in cells)} |")
    return "\n".join(lines)
