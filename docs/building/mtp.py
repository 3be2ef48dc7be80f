"""Blocks of docs/mtp.md."""

from __future__ import annotations

from pathlib import Path

from building.results import Results, read_measured
from building.table import table


def acceptance(results: Results, root: Path) -> str:
    """What ``aha bench mtp`` found: how much of the drafts is kept."""
    if (found := read_measured(root, "mtp")) is None:
        return ""
    rows = []
    for text, both in found["acceptance"].items():
        drafts = found["drafts"][f"toy, 64 rows, {text}"]
        rows.append(
            (
                text,
                f"{100 * both['agreement']:.1f} % of {both['places']:,} places",
                f"{100 * both['overlap']:.1f} %",
                f"{100 * drafts['acceptance']:.1f} %",
                f"{drafts['tokens_per_step']:.2f}",
            )
        )
    headings = ("text", "same most likely token", "shared probability, Σ min(*p*, *q*)", "drafts kept", "tokens a step")
    return table(headings, rows)


def time_saved(results: Results, root: Path) -> str:
    """What ``aha bench mtp`` found: the time that drafts save."""
    if (found := read_measured(root, "mtp")) is None:
        return ""
    rows = []
    for where, drafts in found["drafts"].items():
        ratio = found["ratios"][f"{where}: tokens/s with drafts / without"]
        cells = (f"{drafts['tokens_per_step']:.2f}", f"{drafts['allowed_ratio']:.2f}", f"{ratio['wall']:.2f}")
        rows.append((where, *cells, f"{ratio['cpu']:.2f}"))
    setting, large = found["setting"], found["setting"]["large"]
    words = (
        f"One thread of an {setting['processor']}, {setting['dtype']}, medians of {setting['repeat']} runs in turn; "
        f"the large body has {large['layers']} layers of width {large['width']}."
    )
    headings = ("model, rows, text", "tokens a step", "ratio the draft allows", "ratio, time", "ratio, processor time")
    return table(headings, rows) + "\n\n" + words
