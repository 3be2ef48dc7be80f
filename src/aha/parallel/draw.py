"""A picture of simulated schedules: a row a rank, time to the right, the number of the micro-batch in every box."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from aha.parallel.schedule import Kind, Schedule
from aha.parallel.simulate import Timeline

INK, IDLE, LINE = "#101418", "#eef0f2", "#ffffff"
# For each kind the tone of a micro-batch that goes down the ranks, and of one that comes up. Okabe and Ito's colours.
_TONES = {
    Kind.FORWARD: ("#F2C04B", "#FBE8B5"),
    Kind.BACKWARD: ("#009E73", "#9ADBC6"),
    Kind.INPUT: ("#3B92C9", "#A9D6F0"),
    Kind.WEIGHT: ("#CC79A7", "#EBCADC"),
}
_WORDS = {
    Kind.FORWARD: "forward",
    Kind.BACKWARD: "backward, input and weights",
    Kind.INPUT: "backward, input alone",
    Kind.WEIGHT: "backward, weights alone",
}


def draw_timelines(timelines: Sequence[Timeline], path: Path) -> None:
    """Writes one picture (the suffix of ``path`` says the format) with a panel for each timeline, on one scale of time.

    Two tasks that run as a pair share a box. The folder of ``path`` is made if it is missing.
    """
    longest = max(timeline.makespan for timeline in timelines)
    heights = [len(timeline.ranks) + 1.6 for timeline in timelines]
    figure = Figure(figsize=(max(7.0, 0.17 * longest), 0.27 * sum(heights) + 0.7), dpi=160, layout="constrained")
    panels = figure.subplots(len(timelines), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axes, timeline in zip(panels, timelines, strict=True):
        _panel(axes, timeline)
    panels[-1].set_xlim(0, longest)
    panels[-1].set_xlabel("time", fontsize=9)
    used = {task.kind for t in timelines for own in t.schedule.ranks for action in own for task in action}
    handles = [Patch(facecolor=_TONES[kind][0], label=_WORDS[kind]) for kind in Kind if kind in used]
    handles += [Patch(facecolor=IDLE, label="idle")]
    if any(any(_goes_up(timeline.schedule).values()) for timeline in timelines):
        handles += [Patch(facecolor=_TONES[Kind.FORWARD][1], label="pale: it goes through the ranks the other way")]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8.5, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None} if path.suffix == ".png" else None)


def _panel(axes: Axes, timeline: Timeline) -> None:
    ranks, up = len(timeline.ranks), _goes_up(timeline.schedule)
    bubbles = [f"{bubble:g}" for bubble in timeline.bubbles]
    idle = bubbles[0] if len(set(bubbles)) == 1 else f"{', '.join(bubbles)} (rank by rank)"
    title = f"{timeline.schedule.name}: done after {timeline.makespan:g}, of which a rank idles {idle}"
    axes.set_title(title, loc="left", fontsize=10)
    for rank, spans in enumerate(timeline.ranks):
        axes.add_patch(Rectangle((0, rank), timeline.makespan, 1, facecolor=IDLE, edgecolor="none"))
        for action, start, end in spans:
            for row, task in enumerate(action):
                tone = _TONES[task.kind][up[task.stage, task.batch]]
                height = 1 / len(action)
                box: dict[str, Any] = {"facecolor": tone, "edgecolor": LINE, "linewidth": 0.6}
                axes.add_patch(Rectangle((start, rank + row * height), end - start, height, **box))
                middle = ((start + end) / 2, rank + (row + 0.52) * height)
                dark = task.kind in (Kind.BACKWARD, Kind.INPUT, Kind.WEIGHT) and not up[task.stage, task.batch]
                size = 6.5 if len(action) == 1 else 5
                colour = "white" if dark else INK
                axes.annotate(str(task.batch), middle, ha="center", va="center", fontsize=size, color=colour)
            axes.add_patch(Rectangle((start, rank), end - start, 1, fill=False, edgecolor="white", linewidth=1.4))
    axes.set_ylim(ranks, 0)
    axes.set_yticks([rank + 0.5 for rank in range(ranks)], [f"rank {rank}" for rank in range(ranks)], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _goes_up(schedule: Schedule) -> dict[tuple[int, int], bool]:
    """Of each stage and micro-batch, whether the micro-batch goes from higher ranks to lower ones there."""
    rank_of = schedule.rank_of
    found = {}
    for stage, batch in rank_of:
        here = rank_of[stage, batch]
        before, after = rank_of.get((stage - 1, batch), here), rank_of.get((stage + 1, batch), here)
        found[stage, batch] = after < here or before > here
    return found
