"""Blocks of docs/evaluate.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from building.results import Results, read_measured
from building.table import interval, table


def coverage(results: Results, root: Path) -> str:
    """What ``benchmarks/coverage.py`` found: a row a setting, a column an estimator."""
    if (found := read_measured(root, "coverage")) is None:
        return ""
    settings: dict[str, list[dict[str, Any]]] = {}
    for row in found["rows"]:
        settings.setdefault(row["like"], []).append(row)
    rows = [
        (like, *(str(own[0][key]) for key in ("problems", "samples")), f"{100 * own[0]['truth']:.0f} %")
        + tuple(f"{100 * row['covered']:.1f}" for row in own)
        for like, own in settings.items()
    ]
    columns = [row["of"] for row in next(iter(settings.values()))]
    headings = ("problems like", "problems", "samples", "true pass@1", *columns)
    shares = [row["covered"] for row in found["rows"]]
    within = sum(0.93 <= share <= 0.97 for share in shares)
    outside = ", ".join(
        f"{row['of']} of {row['like']} (true value {100 * row['truth']:.1f} %)"
        for row in found["rows"]
        if not 0.93 <= row["covered"] <= 0.97
    )
    words = f"{within} of {len(shares)} are from 93 to 97 %" + (f"; outside: {outside}." if outside else ".")
    return f"{table(headings, rows)}\n\n{words}"


def harness(results: Results, root: Path) -> str:
    """What ``benchmarks/harness.py compare`` found."""
    if (found := read_measured(root, "harness")) is None:
        return ""
    rows = []
    for name, one in found.items():
        boxed, anywhere = one["filters"]["boxed"], one["filters"]["flexible-extract"]
        own = one.get("evaluate")
        rows.append(
            (
                name.removeprefix("aha_"),
                str(one["problems"]),
                interval(boxed["accuracy"]),
                interval(anywhere["accuracy"]),
                interval(one["aha"]),
                f"{boxed['agree']}; ours alone {boxed['ours_alone']}, theirs alone {boxed['theirs_alone']}",
                f"{interval(own['pass@1'])}; {own['same_text']} of {own['problems']} texts equal" if own else "–",
            )
        )
    heads = (
        "set", "problems", "lm-eval, box", "lm-eval, last number", "aha, the same texts", "equal verdicts, of the box",
        "`aha evaluate`",
    )  # fmt: skip
    return table(heads, rows)
