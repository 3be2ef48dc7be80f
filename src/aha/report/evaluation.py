"""An evaluation, or the comparison of two, for people: table, Markdown and picture of what ``aha evaluate`` found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aha.evaluate.benchmarks import BENCHMARKS
from aha.report.names import heading, is_proportion, number
from aha.report.plots import INK, PALETTE, STYLE
from aha.report.reading import parse_measure
from aha.report.tables import measure_text
from aha.util.files import write_text_atomic

Table = tuple[list[str], list[list[str]]]
_BESIDE = ("format", "answered", "truncated", "language", "length")
_WHITE: Any = {"figure.facecolor": "white", "axes.facecolor": "white", "savefig.dpi": 110}


def evaluation_table(found: Mapping[str, Any]) -> Table:
    """Headings and rows: a bench, and each task, level, subject or language of it, with 95 % intervals."""
    benches = found["benches"]
    keys = {key for entry in benches.values() for key in entry}
    votes = sorted((key for key in keys if key.startswith(("cons@", "pass@"))), key=_rank)
    measures = [*votes, *(key for key in _BESIDE if key in keys)]
    rows = []
    for name, entry in benches.items():
        cells = (measure_text(key, entry.get(key)) for key in measures)
        rows.append([bench_label(name), str(entry["problems"]), str(entry["samples"]), *cells])
        for key in [key for key in entry if key.startswith("by_") and len(entry[key]) > 1]:
            for group, part in entry[key].items():
                cells = (measure_text(key, part.get(key)) for key in measures)
                rows.append([f"  {key[3:]} {group}", str(part["problems"]), "", *cells])
    return ["bench", "problems", "k", *map(heading, measures)], rows


def comparison_table(found: Mapping[str, Any]) -> Table:
    """Headings and rows: each measure of each bench, the second model minus the first, and whether that is real."""
    rows = []
    for name, entry in found["benches"].items():
        for key in compared_measures(entry["difference"]):
            gap = entry["difference"][key]
            scale = 100.0 if is_proportion(key) else 1.0
            known = all(gap[side] is not None and math.isfinite(gap[side]) for side in ("low", "high"))
            bounds = f" ({scale * gap['low']:+.1f} to {scale * gap['high']:+.1f})" if known else ""
            rows.append(
                [
                    bench_label(name),
                    heading(key),
                    *(measure_text(key, entry[side].get(key)) for side in ("first", "second")),
                    f"{scale * gap['value']:+.1f}{bounds}",
                    number(gap["p_value"]),
                    f"{gap['better']} / {gap['worse']} / {gap['equal']}",
                    "real" if gap["real"] else "within chance",
                ]
            )
    heads = ["bench", "measure", "first", "second", "difference", "p", "higher / lower / equal", "the difference is"]
    return heads, rows


def compared_measures(difference: Mapping[str, Any]) -> list[str]:
    """pass@1, the largest vote and pass@k, and what is seen beside them."""
    sizes = [int(key[5:]) for key in difference if key.startswith("cons@")]
    largest = max(sizes, default=1)
    wanted = dict.fromkeys(("pass@1", f"cons@{largest}", f"pass@{largest}", *_BESIDE))
    return [key for key in wanted if key in difference]


def markdown(found: Mapping[str, Any]) -> str:
    """The tables with who was asked and how, as Markdown."""
    if "models" in found:
        first, second = found["models"]
        said = (
            f"First `{first}`, second `{second}`, on the same problems. Differences are second minus first with 95 % "
            "intervals (bootstrap over problems); p is the sign-flip permutation test's, of each row by itself."
        )
        heads, rows = comparison_table(found)
    else:
        said = (
            f"`{found['model']}`, temperature {found['temperature']}, top-p {found['top_p']}, seed {found['seed']}. "
            "Shares in percent, with 95 % intervals over problems."
        )
        heads, rows = evaluation_table(found)
    lines = [heads, ["---"] * len(heads), *rows]
    return said + "\n\n" + "".join(f"| {' | '.join(_plain(cell) for cell in line)} |\n" for line in lines)


def save_evaluation(found: Mapping[str, Any], path: Path) -> None:
    """A picture where the name ends in ``.png``, else Markdown."""
    if path.suffix == ".png":
        save_picture(found, path)
    else:
        write_text_atomic(path, markdown(found))


def save_picture(found: Mapping[str, Any], path: Path) -> None:
    """Of an evaluation: pass@1 of every bench with both intervals, and accuracy against the samples spent. Of a
    comparison: the differences."""
    with matplotlib.rc_context({**STYLE, **_WHITE}):
        if "models" in found:
            figure = Figure(figsize=(7.5, 1.6 + 0.4 * len(found["benches"])), layout="constrained")
            _draw_differences(figure.subplots(), found)
        else:
            figure = Figure(figsize=(10.5, max(3.6, 1.4 + 0.4 * len(found["benches"]))), layout="constrained")
            left, right = figure.subplots(1, 2)
            _draw_scores(left, found["benches"])
            _draw_votes(right, found["benches"])
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", metadata={"Software": None})


def bench_label(name: str) -> str:
    """``math500=data/test.jsonl`` is ``math500``; of a path its last part."""
    kind = name.partition("=")[0]
    return kind if kind in BENCHMARKS else Path(name).name


def _draw_scores(axes: Axes, benches: Mapping[str, Any]) -> None:
    for place, entry in enumerate(benches.values()):
        score, again = entry["pass@1"], parse_measure(entry["pass@1_again"])
        axes.plot([100 * score["low"], 100 * score["high"]], [place, place], color=PALETTE[0], linewidth=1.2)
        if again and again.low is not None and again.high is not None:
            axes.plot([100 * again.low, 100 * again.high], [place, place], color=PALETTE[0], linewidth=4, alpha=0.4)
        axes.plot(100 * score["value"], place, "o", color=PALETTE[0], markersize=6)
    axes.set_yticks(range(len(benches)), [bench_label(name) for name in benches])
    axes.set_ylim(len(benches) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("thin: other problems of the kind; thick: these problems sampled again")
    axes.set_title("pass@1, %", loc="left", fontsize=11.5, weight="bold")


def _draw_votes(axes: Axes, benches: Mapping[str, Any]) -> None:
    for place, (name, entry) in enumerate(benches.items()):
        tone = PALETTE[place % 7]
        for key, dashes in (("votes", "-"), ("passes", (0, (4, 2)))):
            sizes, values = [row["k"] for row in entry[key]], [100 * row["value"] for row in entry[key]]
            label = bench_label(name) if key == "votes" else None
            axes.plot(sizes, values, color=tone, linestyle=dashes, marker="o", markersize=3.5, label=label)
    axes.set_xscale("log", base=2)
    axes.set_ylim(0, 100)
    axes.set_xlabel("samples k; line: vote of k (cons@k), dashes: any of k (pass@k)")
    axes.set_title("accuracy, %", loc="left", fontsize=11.5, weight="bold")
    axes.legend()


def _draw_differences(axes: Axes, found: Mapping[str, Any]) -> None:
    for place, entry in enumerate(found["benches"].values()):
        gap = entry["difference"]["pass@1"]
        tone = PALETTE[1] if gap["real"] else PALETTE[6]
        axes.plot([100 * gap["low"], 100 * gap["high"]], [place, place], color=tone, linewidth=1.4)
        axes.plot(100 * gap["value"], place, "o" if gap["real"] else "D", color=tone, markersize=6)
    axes.set_yticks(range(len(found["benches"])), [bench_label(name) for name in found["benches"]])
    axes.set_ylim(len(found["benches"]) - 0.5, -0.5)
    axes.axvline(0.0, color=INK, linewidth=0.8)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("second minus first, points; grey diamond: within chance")
    axes.set_title("Difference in pass@1", loc="left", fontsize=11.5, weight="bold")


def _rank(key: str) -> tuple[bool, bool, int]:
    """pass@1 and its repetition, then votes, then passes."""
    stem, _, size = key.partition("@")
    first = size.partition("_")[0]
    return not key.startswith("pass@1") or first != "1", stem == "pass", int(first)


def _plain(text: str) -> str:
    return text.strip().replace("|", "\\|")
