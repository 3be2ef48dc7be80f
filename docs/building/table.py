"""How tables and their cells are written in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aha.report.names import percent


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under headings, a text for each cell, whose lines are joined: a row is one line."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(" ".join(cell.split()) for cell in cells) + " |" for cells in lines)


def interval(measure: Mapping[str, float]) -> str:
    """A share with its interval."""
    return f"{percent(measure['value'])} ({percent(measure['low'])} to {percent(measure['high'])})"
