"""The figures of a run as inline SVG that takes its ink and palette from the page, and one PNG for a README.

A figure is small (about the width of a phone) and the page sets several side by side where there is room. Colours are
Okabe and Ito's, which people with any common colour blindness can tell apart; no meaning hangs on colour alone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aha.report.names import model_label
from aha.report.reading import Measure, Run, Stage, load_run, parse_measure, rolling_mean, series
from aha.report.summary import compute_summary

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A7A7A", "#101418")
"""Series colours; the page may show each in a lighter tone on a dark ground. The last is the ink."""
INK, FAINT, WASH, QUIET = "#101418", "#c9ced4", "#f5f7f9", "#59636e"
_BLUE, _RED, _GREEN, _PINK, _SKY, _ORANGE, _GREY = PALETTE[:7]
_COLOURS = {
    "base": _GREY,
    "untrained": _GREY,
    "r1_zero": _BLUE,
    "random_reward": _PINK,
    "dev1": _SKY,
    "dev2": _GREEN,
    "dev3": _ORANGE,
    "r1": _RED,
    "student_base": _GREY,
    "student_rl": _BLUE,
    "student_distilled": _RED,
}
_DASHES: dict[str, Any] = {"random_reward": (0, (1, 1.4)), "dev2": (0, (5, 1.6)), "student_rl": (0, (4, 1.4, 1, 1.4))}
_MARKERS = "osD^vPX*"
WINDOW = 10
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "aha",
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.alpha": 0.55,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.handlelength": 1.6,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
_styled = matplotlib.rc_context(STYLE)


def colour(name: str, place: int = 0) -> str:
    """A model's colour, the same in every figure; ``place`` picks one for a name that has none."""
    return _COLOURS.get(name, PALETTE[place % 6])


@_styled
def accuracy_plot(stage: Stage, levels: Sequence[tuple[str, Measure]] = ()) -> str:
    """Accuracy on training prompts: each step faint, the mean of 10 steps bold; ``levels`` as horizontal lines."""
    figure, axes = _figure()
    _curve(axes, stage.rows, "accuracy", colour(stage.name), scale=100)
    for number, (label, measure) in enumerate(levels):
        dashes = ((0, (5, 3)), (0, (1, 2)))[number % 2]
        value = 100 * measure.value
        axes.axhline(value, color=INK, linewidth=1.1, linestyle=dashes, label=f"{label}: {value:.1f} %")
    _legend(axes, len(levels))
    _percent_axis(axes)
    return _svg(figure, f"Accuracy of {model_label(stage.name)} over its steps", axes, "step", "accuracy, %")


@_styled
def length_plot(stage: Stage) -> str:
    """Response length on training prompts, as ``accuracy_plot``."""
    figure, axes = _figure()
    _curve(axes, stage.rows, "length", colour(stage.name))
    axes.set_ylim(bottom=0)
    return _svg(
        figure, f"Response length of {model_label(stage.name)} over its steps", axes, "step", "tokens a response"
    )


@_styled
def reward_plot(stage: Stage) -> str:
    """Every named reward, unweighted, as means of 10 steps."""
    figure, axes = _figure()
    parts = reward_parts(stage)
    for place, key in enumerate(parts):
        steps, values = series(stage.rows, key)
        axes.plot(
            steps,
            rolling_mean(values, WINDOW),
            color=PALETTE[place % 7],
            linestyle=("-", (0, (5, 1.6)), (0, (1, 1.4)))[place % 3],
            label=key.partition("/")[2] or key,
        )
    _legend(axes, len(parts))
    return _svg(figure, f"Reward parts of {model_label(stage.name)} over its steps", axes, "step", "mean score")


@_styled
def overlay_plot(stages: Sequence[Stage], key: str, label: str, *, log: bool = False) -> str:
    """One measure of several RL stages, means of 10 steps, each over its own steps."""
    figure, axes = _figure()
    shown = _draw_curves(axes, stages, key)
    if log:
        axes.set_yscale("log")
    else:
        low, high = axes.get_ylim()
        axes.set_ylim(min(0.0, low), max(high, 1e-9))
    _legend(axes, shown)
    return _svg(figure, f"{label} over the steps", axes, "step", label)


def _draw_curves(axes: Axes, stages: Sequence[Stage], key: str) -> int:
    """How many of the stages have the measure."""
    shown = 0
    for place, stage in enumerate(stages):
        steps, values = series(stage.rows, key)
        if values:
            axes.plot(
                steps,
                rolling_mean(values, WINDOW),
                color=colour(stage.name, place),
                linestyle=_DASHES.get(stage.name, ("-", (0, (5, 1.6)), (0, (1, 1.4)))[place // 6 % 3]),
                label=model_label(stage.name),
            )
            shown += 1
    return shown


@_styled
def task_plot(stage: Stage, prefix: str, label: str, *, scale: float = 1.0) -> str:
    """A measure by task: every key ``<prefix>/<task>`` of the stage's steps."""
    figure, axes = _figure()
    keys = task_keys(stage, prefix)
    for place, key in enumerate(keys):
        steps, values = series(stage.rows, key)
        axes.plot(
            steps,
            [scale * value for value in rolling_mean(values, WINDOW)],
            color=PALETTE[place % 7],
            linestyle=("-", (0, (5, 1.6)), (0, (1, 1.4)))[place % 3],
            label=key.partition("/")[2].replace("_", " "),
        )
    axes.set_ylim(bottom=0)
    _legend(axes, len(keys))
    return _svg(figure, f"{label} of {model_label(stage.name)} by task", axes, "step", label)


@_styled
def vote_plot(votes: Mapping[str, Sequence[Mapping[str, Any]]], title: str) -> str:
    """Accuracy of a majority vote against the number of votes, a line for each model."""
    figure, axes = _figure(height=3.1)
    counts: set[int] = set()
    for place, (model, points) in enumerate(votes.items()):
        pairs = [(int(p["k"]), m) for p in points if p.get("k") and (m := parse_measure(p)) is not None]
        sizes = [k for k, _ in pairs]
        counts.update(sizes)
        tint = colour(model, place)
        axes.plot(
            sizes,
            [100 * measure.value for _, measure in pairs],
            color=tint,
            marker=_MARKERS[place % len(_MARKERS)],
            markersize=4.5,
            label=model_label(model),
        )
        if all(measure.has_interval() for _, measure in pairs):
            lows = [100 * (measure.low or 0.0) for _, measure in pairs]
            highs = [100 * (measure.high or 0.0) for _, measure in pairs]
            axes.fill_between(sizes, lows, highs, color=tint, alpha=0.12, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(counts), [str(k) for k in sorted(counts)])
    axes.minorticks_off()
    _percent_axis(axes)
    _legend(axes, len(votes))
    return _svg(figure, title, axes, "votes k", "accuracy, %")


@_styled
def reliability_plot(bins: Sequence[Mapping[str, Any]], title: str) -> str:
    """What a preference model predicts against what comes true, with intervals; on the line it is calibrated."""
    figure, axes = _figure()
    _draw_reliability(axes, bins)
    return _svg(figure, title, axes, "predicted, %", "came true, %")


def save_reliability_figure(curves: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """The same of several models side by side, one PNG."""
    with matplotlib.rc_context({"figure.facecolor": "white", "axes.facecolor": "white", "savefig.dpi": 110}):
        figure = Figure(figsize=(4.4 * len(curves), 4.0), layout="constrained")
        for axes, (title, bins) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
            _draw_reliability(axes, bins)
            axes.set(xlabel="predicted, %", ylabel="came true, %")
            axes.set_title(title, loc="left", fontsize=11.5, weight="bold")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", metadata={"Software": None})


def _draw_reliability(axes: Axes, bins: Sequence[Mapping[str, Any]]) -> None:
    start = 0.5 if min(b["low"] for b in bins) >= 0.5 else 0.0
    axes.plot([100 * start, 100], [100 * start, 100], color=INK, linewidth=1.0, linestyle=(0, (5, 3)))
    for b in bins:
        place = 100 * b["predicted"]
        axes.plot([place, place], [100 * b["share_low"], 100 * b["share_high"]], color=INK, linewidth=1.1)
    places, shares = [100 * b["predicted"] for b in bins], [100 * b["share"] for b in bins]
    axes.plot(places, shares, "o-", color=_BLUE, markersize=5)
    axes.set_xlim(100 * start, 100)
    _percent_axis(axes)


@_styled
def bar_plot(bars: Mapping[str, Measure], title: str) -> str:
    """Pass@1 of several models with 95 % intervals, the value above each bar."""
    figure, axes = _figure()
    _bars(axes, bars)
    return _svg(figure, title, axes, "", "pass@1, %")


@_styled
def gain_plot(gains: Mapping[str, Measure]) -> str:
    """Gains in points, least first from below, with their intervals; a line stands at no gain."""
    figure, axes = _figure(height=0.7 + 0.24 * len(gains))
    _draw_gains(axes, gains)
    return _svg(figure, "Gain of each arm over the start", axes, "gain in pass@1, points", "")


def _draw_gains(axes: Axes, gains: Mapping[str, Measure]) -> None:
    ordered = sorted(gains.items(), key=lambda pair: pair[1].value)
    for place, (_, gain) in enumerate(ordered):
        low, high = (gain.value if bound is None else bound for bound in (gain.low, gain.high))
        axes.plot([100 * low, 100 * high], [place, place], color=INK, linewidth=1.1)
        axes.plot(100 * gain.value, place, "o", color=_BLUE, markersize=6)
    axes.set_yticks(range(len(ordered)), [model_label(arm) for arm, _ in ordered])
    axes.axvline(0.0, color=INK, linewidth=0.8)
    axes.grid(visible=False, axis="y")


@_styled
def save_comparison_figure(gains: Mapping[str, Measure], curves: Sequence[Stage], path: Path) -> None:
    """The gains of all arms beside their training accuracy (means over seeds), one PNG."""
    with matplotlib.rc_context({"figure.facecolor": "white", "axes.facecolor": "white", "savefig.dpi": 110}):
        figure = Figure(figsize=(10.5, 4.7), layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw_gains(left, gains)
        left.set_title("Gain in pass@1 over the base, points", loc="left", fontsize=11.5, weight="bold")
        _draw_curves(right, curves, "accuracy")
        right.set_xlabel("step")
        right.set_title("Accuracy on training prompts", loc="left", fontsize=11.5, weight="bold")
        right.legend(ncols=4, fontsize=8.5, loc="upper left", bbox_to_anchor=(-0.02, -0.12))
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", metadata={"Software": None})


def reward_parts(stage: Stage) -> list[str]:
    """The keys ``reward/<name>`` of a stage's steps: each named reward, unweighted."""
    return task_keys(stage, "reward")


def task_keys(stage: Stage, prefix: str) -> list[str]:
    """The keys ``<prefix>/<name>`` that some step recorded, sorted."""
    return sorted({key for row in stage.rows for key in row if key.startswith(f"{prefix}/") and series([row], key)[1]})


def save_readme_figure(run: Path, path: Path) -> None:
    """One PNG on white: accuracy and length over the steps of R1-Zero (or the first RL stage), and pass@1 of each
    stage."""
    loaded = load_run(run)
    summary = compute_summary(loaded)
    scored = {
        model: measure
        for model, entry in summary["stages"].items()
        if (measure := parse_measure(entry.get("pass@1"))) is not None
    }
    stage = first_curve(loaded)
    with matplotlib.rc_context({**STYLE, "figure.facecolor": "white", "font.size": 11}):
        figure = Figure(figsize=(11.5, 3.9), dpi=200, layout="constrained")
        left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.35))
        if stage is not None:
            _curve(left, stage.rows, "accuracy", colour(stage.name), scale=100)
            start = loaded.start_of(stage)
            if start is not None and start in scored:
                left.axhline(100 * scored[start].value, color=INK, linewidth=1.0, linestyle=(0, (5, 3)))
                left.annotate(
                    f"{model_label(start)} pass@1",
                    (1, 100 * scored[start].value),
                    xycoords=("axes fraction", "data"),
                    xytext=(0, 4),
                    textcoords="offset points",
                    ha="right",
                    fontsize=9.5,
                )
            _percent_axis(left)
            _curve(middle, stage.rows, "length", colour(stage.name))
            middle.set_ylim(bottom=0)
            left.set_title(f"{model_label(stage.name)}: accuracy, %", loc="left", fontsize=11.5, weight="bold")
            middle.set_title(f"{model_label(stage.name)}: tokens a response", loc="left", fontsize=11.5, weight="bold")
            left.set_xlabel("step")
            middle.set_xlabel("step")
        _bars(right, scored, horizontal=True)
        right.set_title("pass@1 on held-out problems, %", loc="left", fontsize=11.5, weight="bold")
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", metadata={"Software": None})


def first_curve(run: Run) -> Stage | None:
    """The stage whose curve stands for the run: R1-Zero where there is one, else the first RL stage with steps."""
    stages = [stage for stage in run.of_kind("rl") if stage.rows]
    return next((stage for stage in stages if stage.name == "r1_zero"), stages[0] if stages else None)


def _figure(*, width: float = 4.15, height: float = 2.8) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _curve(axes: Axes, rows: Sequence[Mapping[str, Any]], key: str, tint: str, *, scale: float = 1.0) -> None:
    steps, values = series(rows, key)
    scaled = [scale * value for value in values]
    axes.plot(steps, scaled, color=tint, alpha=0.3, linewidth=1.0)
    axes.plot(steps, rolling_mean(scaled, WINDOW), color=tint, linewidth=2.4)


def _bars(axes: Axes, bars: Mapping[str, Measure], *, horizontal: bool = False) -> None:
    places = list(range(len(bars)))
    values = [100 * measure.value for measure in bars.values()]
    lows = [100 * (m.value - m.low) if m.low is not None else 0.0 for m in bars.values()]
    highs = [100 * (m.high - m.value) if m.high is not None else 0.0 for m in bars.values()]
    errors = [[max(0.0, low) for low in lows], [max(0.0, high) for high in highs]]
    tints = [colour(model, place) for place, model in enumerate(bars)]
    whisker = {"ecolor": INK, "elinewidth": 1.1, "capsize": 3}
    labels = [model_label(model) for model in bars]
    for place, (value, high) in enumerate(zip(values, errors[1], strict=True)):
        at = (value + high, place) if horizontal else (place, value + high)
        offset = (5, 0) if horizontal else (0, 4)
        align: dict[str, Any] = {"ha": "left", "va": "center"} if horizontal else {"ha": "center", "va": "bottom"}
        axes.annotate(f"{value:.1f}", at, xytext=offset, textcoords="offset points", fontsize=9.5, **align)
    if horizontal:
        axes.barh(places, values, xerr=errors, color=tints, height=0.68, error_kw=whisker)
        axes.set_yticks(places, labels)
        axes.invert_yaxis()
        axes.set_xlim(0, 108)
        axes.grid(visible=False, axis="y")
    else:
        axes.bar(places, values, yerr=errors, color=tints, width=0.6, error_kw=whisker)
        axes.set_xticks(places, [label.replace(", ", ",\n") for label in labels])
        axes.set_ylim(
            0, min(108, max([high + value for high, value in zip(errors[1], values, strict=True)], default=1) * 1.18)
        )
        axes.grid(visible=False, axis="x")


def _percent_axis(axes: Axes) -> None:
    axes.set_ylim(0, 102)
    axes.set_yticks([0, 25, 50, 75, 100])


def _legend(axes: Axes, num_lines: int) -> None:
    if num_lines:
        figure = axes.get_figure()
        assert isinstance(figure, Figure)
        style = {"columnspacing": 1.2, "borderpad": 0.1, "borderaxespad": 0.1}
        for columns in range(min(3, num_lines), 0, -1):  # as many as the figure's width holds
            legend = figure.legend(loc="outside upper left", ncols=columns, **style)
            if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
                break
            legend.remove()


def _svg(figure: Figure, description: str, axes: Axes, x_label: str, y_label: str) -> str:
    """A figure of one plot as ``svg_text`` gives it."""
    axes.set_xlabel(x_label)
    if x_label == "step":
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.set_ylabel(y_label)
    return svg_text(figure, description)


def svg_text(figure: Figure, description: str) -> str:
    """The figure as an ``<svg>`` element for the inside of a page: own ids, no namespaces, colours as the page's
    variables."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    text = re.sub(r"""\sxmlns(:\w+)?=(["'])[^"']*\2""", "", text)
    own = re.sub(r"[^a-z0-9]+", "-", description.lower()).strip("-")
    text = re.sub(r'\bid="', f'id="{own}-', text)
    text = re.sub(r"url\(#", f"url(#{own}-", text)
    text = re.sub(r'href="#', f'href="#{own}-', text)
    for number, tint in enumerate(PALETTE):
        text = text.replace(tint.lower(), f"var(--series-{number})")
    for tint, name in ((FAINT, "grid"), (WASH, "wash"), (QUIET, "quiet")):
        text = text.replace(tint, f"var(--{name})")
    viewbox = re.search(r'viewBox="[^"]*"', text)
    head_end = text.index(">") + 1
    assert viewbox is not None
    return f'<svg class="plot" role="img" aria-label="{description}" {viewbox.group(0)}>{text[head_end:]}'
