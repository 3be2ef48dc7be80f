"""Blocks of docs/preferences.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from building.results import Results, first_of
from building.table import interval, table

LONGER = ("accuracy_longer_chosen", "accuracy_shorter_chosen")


def held_out(results: Results, root: Path) -> str:
    """What the heads and DPO of preferences_real were worth on texts that they did not learn from."""
    summary = first_of(results, "preferences_real")
    if summary is None:
        return ""
    found = summary["preferences"]
    data, read, dpo = found["pairs"], found["read"], found["dpo"]
    rows = []
    for name, kind in (("helpful", "pairs"), ("helpful_even", "pairs"), ("safe", "texts")):
        head = found[name]
        both = (head["held_out"], f"every one of {_count(head['held_out'])} {kind}, held out once")
        own = (head["test"], f"the test side, {_count(head['test'])} {kind}")
        for report, where in (both, own):
            length, curve = report["length"], report["calibration"]
            rows.append(
                (
                    f"`{name}`, layer {head['depth']}",
                    where,
                    interval(report["accuracy"]),
                    f"{100 * curve['ece']:.1f} points",
                    f"{length['correlation']:+.2f}",
                    *(interval(length[key]) if key in length else "–" for key in LONGER),
                )
            )
    heads = (
        "model", "judged on", "accuracy", "calibration error", "correlation of score and length",
        "where the better text is longer", "where it is shorter",
    )  # fmt: skip
    length = found["helpful"]["held_out"]["length"]
    before, after = (dpo["held_out"][key] for key in ("margin_before", "margin"))
    sentences = (
        f"{data['train']:,} pairs to train on and {data['test']} to test; {read['texts']:,} texts with "
        f"{read['tokens']:,} tokens are read once.",
        f"Choosing the longer text would be right in {interval(length['longer_chosen'])} of all pairs; `helpful_even` "
        f"learns from {found['pairs_even']['train']:,} whose longer text is as often the better as the worse one.",
        *_by_pairs(found["safe"]["held_out"]),
        f"DPO on {dpo['pairs']} pairs, {dpo['steps']} updates: over {found['pairs_dpo']['test']} pairs of the test "
        f"side the mean margin goes from {before['value']:.4f} to {after['value']:.4f} ({after['low']:.4f} to "
        f"{after['high']:.4f}, pair by pair); {interval(dpo['held_out']['accuracy'])} of them move towards the "
        "preferred answer.",
    )
    words = "How often each model is right against how sure it is, with 95 % intervals"
    picture = f"![{words}](figures/preferences_real.png)\n\n{words} (seed {summary['seed']})."
    return "\n\n".join((table(heads, rows), *sentences, picture))


def _by_pairs(report: Mapping[str, Any]) -> Iterator[str]:
    if "pairs" in report:
        yield (
            f"`safe` judges single texts; of the two of a pair it gives the better one the higher score in "
            f"{interval(report['pairs'])}."
        )


def _count(report: Mapping[str, Any]) -> str:
    return f"{sum(b['count'] for b in report['calibration']['bins']):,}"
