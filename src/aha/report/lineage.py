"""The graph of a run, a model or a data set as a picture, from the files at the top to the results at the bottom (as
figure 3 of the survey, 2505.00551, draws the published sets), and the figures of a set's rows."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path as File
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from aha.data.lineage import Node
from aha.report.graph import NODE_WIDTH, laid_out
from aha.report.plots import INK, PALETTE, QUIET, STYLE, WASH, svg_text

WIDTH, HEIGHT, GAP, MARGIN = 2.0, 0.82, 0.45, 0.15  # of a box, below it, around all, in inches
LEFT_OUT = ("evaluate", "compare", "tokenizer")
_TINTS = {"file": PALETTE[6], "sft": PALETTE[5], "rl": PALETTE[0], "pretrain": PALETTE[7], "foundation": PALETTE[7]}
_WHITE: Any = {"figure.facecolor": "white", "axes.facecolor": "white", "savefig.dpi": 130}


def merged(nodes: Sequence[Node]) -> list[Node]:
    """Without what makes no data and no model, and with ``arm_0``, ``arm_1``, ... of the same parents as one node."""
    kept = [node for node in nodes if node.kind not in LEFT_OUT]
    gone = {node.name: node.parents for node in nodes if node.kind in LEFT_OUT}
    groups: dict[tuple[Any, ...], list[Node]] = {}
    for node in kept:
        parents = tuple(parent for parent in node.parents if parent not in gone)
        stem = re.sub(r"_\d+$", "", node.name)
        numbered = stem != node.name
        groups.setdefault((stem, node.kind, parents, None if numbered else node.name), []).append(node)
    names = {node.name: key[0] if len(own) > 1 else own[0].name for key, own in groups.items() for node in own}
    found = []
    for (stem, _, parents, _), own in groups.items():
        first = replace(own[0], parents=tuple(dict.fromkeys(names[p] for p in parents if p in names)))
        found.append(replace(first, name=stem, note=f"{len(own)} seeds") if len(own) > 1 else first)
    return found


def lineage_svg(nodes: Sequence[Node], leaks: Mapping[str, int] | None = None) -> str:
    """The picture for the page."""
    with matplotlib.rc_context(STYLE):
        return svg_text(_drawn(nodes, leaks or {}), "What everything was made from")


def save_lineage(nodes: Sequence[Node], path: File, leaks: Mapping[str, int] | None = None) -> None:
    """The picture as a file; its ending says of which kind: .png, .svg or .pdf."""
    with matplotlib.rc_context({**STYLE, **_WHITE}):
        _drawn(nodes, leaks or {}).savefig(path, metadata={"Software": None} if path.suffix == ".png" else None)


def _drawn(nodes: Sequence[Node], leaks: Mapping[str, int]) -> Figure:
    nodes = merged(nodes)
    rows, links, whole = laid_out(nodes, [(parent, node.name) for node in nodes for parent in node.parents])
    inch = WIDTH / NODE_WIDTH
    width, height = whole * inch + 2 * MARGIN, len(rows) * (HEIGHT + GAP) - GAP + 2 * MARGIN
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    place = {
        one.key: (MARGIN + one.x * inch, MARGIN + depth * (HEIGHT + GAP), one.stage is not None)
        for depth, row in enumerate(rows)
        for one in row
    }
    for upper, lower in links:
        (x1, y1, _), (x2, y2, to_box) = place[upper], place[lower]
        start, end = y1 + HEIGHT, y2 - 0.03 if to_box else y2
        middle = (start + end) / 2
        points = [(x1, start), (x1, middle), (x2, middle), (x2, end)]
        curve = Path([*points], [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
        style = "-|>" if to_box else "-"
        if not to_box:  # straight past the boxes of the layer
            axes.plot([x2, x2], [y2, y2 + HEIGHT], color=QUIET, linewidth=1.0, zorder=1)
        axes.add_patch(
            FancyArrowPatch(path=curve, arrowstyle=style, mutation_scale=9, color=QUIET, linewidth=1.0, zorder=1)
        )
    for row in rows:
        for one in row:
            if one.stage is not None:
                x, y, _ = place[one.key]
                _box(axes, one.stage, x - WIDTH / 2, y, leaks.get(one.key))
    return figure


def _box(axes: Axes, node: Node, x: float, y: float, leaks: int | None) -> None:
    tint = "#b3480a" if leaks else _TINTS.get(node.kind, PALETTE[2])
    shape = FancyBboxPatch(
        (x + 0.05, y + 0.05), WIDTH - 0.1, HEIGHT - 0.1, boxstyle="round,pad=0.05", linewidth=2.2 if leaks else 1.4,
        edgecolor=tint, facecolor=WASH, zorder=2,
    )  # fmt: skip
    axes.add_patch(shape)
    name = node.name if len(node.name) <= 24 else f"…{node.name[-23:]}"
    note = node.note if leaks is None else f"{leaks} leaks. {node.note}"
    lines = textwrap.wrap(note, 32)[:2]
    middle = x + WIDTH / 2
    axes.text(middle, y + 0.2, name, ha="center", va="center", fontsize=9.5, weight="bold", color=INK)
    axes.text(middle, y + 0.39, node.kind.replace("_", " "), ha="center", va="center", fontsize=8, color=tint)
    axes.text(middle, y + 0.62, "\n".join(lines), ha="center", va="center", fontsize=7.5, color=QUIET)


def stats_svgs(stats: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(title, picture) of each figure there is: lengths, groups of rows, pass rates."""
    found = []
    for title, draw, label in _figures(stats):
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(5.2, 2.7), layout="constrained")
            draw(figure.subplots())
            found.append((title, svg_text(figure, label)))
    return found


def save_stats(stats: Mapping[str, Any], path: File) -> None:
    """All figures of ``aha data stats`` in one picture."""
    figures = _figures(stats)
    with matplotlib.rc_context({**STYLE, **_WHITE}):
        columns = min(2, max(1, len(figures)))
        rows = max(1, -(-len(figures) // columns))
        figure = Figure(figsize=(5.4 * columns, 3.0 * rows), layout="constrained")
        places = figure.subplots(rows, columns, squeeze=False).flat
        for axes, (title, draw, _) in zip(places, figures, strict=False):
            draw(axes)
            axes.set_title(title, loc="left", fontsize=11, weight="bold")
        for axes in list(figure.axes)[len(figures) :]:
            axes.axis("off")
        figure.savefig(path, metadata={"Software": None} if path.suffix == ".png" else None)


def _figures(stats: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    lengths = [
        (f"Words of the {name}", lambda axes, row=row: _lengths(axes, row), f"How long each {name} is")
        for name, row in stats["lengths"].items()
    ]
    groups = [
        (f"Rows by {name}", lambda axes, counts=counts: _counts(axes, counts), f"How many rows of each {name}")
        for name, counts in stats["groups"].items()
        if len(counts) > 1
    ]
    rates = [("Pass rate", lambda axes: _rates(axes, stats["pass_rates"]), "How often rows were answered right")]
    return lengths + groups + (rates if stats["pass_rates"] else [])


def _lengths(axes: Axes, row: Mapping[str, Any]) -> None:
    edges, counts = row["edges"], row["counts"]
    names = [f"{low}" if high - low == 1 else f"{low}–{high - 1}" for low, high in zip(edges, edges[1:], strict=False)]
    first = next(place for place, count in enumerate(counts) if count)
    shown = range(first, len(counts))
    axes.bar([names[place] for place in shown], [counts[place] for place in shown], color=PALETTE[0], width=0.85)
    axes.tick_params(axis="x", labelsize=8, rotation=30 if len(shown) > 6 else 0)
    axes.set_xlabel(f"words; mean {row['mean']:,.0f}, median {row['quantiles']['50']:,.0f}")
    axes.set_ylabel("rows")
    axes.grid(visible=False, axis="x")


def _counts(axes: Axes, counts: Mapping[str, int]) -> None:
    shown = list(counts.items())[:8]
    rest = sum(counts.values()) - sum(number for _, number in shown)
    shown += [("others", rest)] if rest else []
    names = [name if len(name) <= 22 else f"{name[:21]}…" for name, _ in shown]
    axes.barh(range(len(shown)), [number for _, number in shown], color=PALETTE[2], height=0.75)
    axes.set_yticks(range(len(shown)), names, fontsize=8.5)
    axes.invert_yaxis()
    axes.set_xlabel("rows")
    axes.grid(visible=False, axis="y")
    axes.locator_params(axis="x", nbins=5)


def _rates(axes: Axes, counts: Sequence[int]) -> None:
    axes.bar([10 * place + 5 for place in range(len(counts))], counts, width=9, color=PALETTE[1])
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("samples that are right, %")
    axes.set_ylabel("rows")
    axes.grid(visible=False, axis="x")


