"""The recipe as a drawing: stages in layers with their edges, and a strip of when each ran. Plain SVG text, no
library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Any

from aha.report.names import duration, percent
from aha.report.reading import Run, Stage, evaluated_model, finite, parse_measure

NODE_WIDTH = _WIDTH = 156
_HEIGHT = 46
_CHIP = 20  # height of the evaluation below its model
_GAP_X, _GAP_Y = 22, 46
_BEND = 14  # width kept free for an edge that passes a layer
_KINDS = (
    "tokenizer",
    "problems",
    "foundation",
    "pretrain",
    "sft",
    "rl",
    "cold_start",
    "reject",
    "examples",
    "reward_model",
    "reward_head",
    "evaluate",
)


@dataclass
class _Place:
    """A node of the layered drawing, or (``stage`` None) the bend of an edge that passes a layer."""

    key: str
    layer: int
    stage: Any
    x: float = 0.0

    @property
    def width(self) -> float:
        return _WIDTH if self.stage is not None else _BEND


def kind_class(kind: str) -> str:
    """The CSS class that colours a kind; unknown kinds share one."""
    return f"kind-{kind}" if kind in _KINDS else "kind-other"


def layers_of(names: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Longest path from a source, so that every edge points down. ``names`` need not be sorted; a cycle is an error."""
    before: dict[str, list[str]] = {name: [] for name in names}
    for source, target in edges:
        before[target].append(source)
    layer: dict[str, int] = {}
    waiting = list(names)
    while waiting:
        ready = [name for name in waiting if all(source in layer for source in before[name])]
        if not ready:
            raise ValueError(f"the stages {', '.join(waiting)} form a cycle")
        for name in ready:
            layer[name] = max((layer[source] + 1 for source in before[name]), default=0)
        waiting = [name for name in waiting if name not in layer]
    return layer


def laid_out(
    nodes: Sequence[Any], edges: Sequence[tuple[str, str]]
) -> tuple[list[list[_Place]], list[tuple[str, str]], float]:
    """Places of anything with a ``name``, layer by layer with their x; the links between them, through bends where an
    edge passes a layer; and the whole width."""
    rows, links = _with_bends(nodes, edges, layers_of([node.name for node in nodes], edges))
    _order(rows, links)
    return rows, links, _spread(rows, links)


def recipe_svg(run: Run) -> str:
    """The stages as a graph from top to bottom; an evaluation is drawn as a label below the model it measures."""
    chips = _chips(run)
    labels = {chip.name for group in chips.values() for chip in group}
    stages = [stage for stage in run.stages if stage.name not in labels]
    edges = _edges(stages)
    rows, links, width = laid_out(stages, edges)
    step = _HEIGHT + _CHIP * max(map(len, chips.values()), default=0) + _GAP_Y
    height = len(rows) * step - _GAP_Y
    by_key = {place.key: place for row in rows for place in row}
    parts: list[str] = []
    for source, target in links:
        upper, lower = by_key[source], by_key[target]
        depth = _HEIGHT + _CHIP * len(chips.get(source, ())) if upper.stage is not None else _HEIGHT / 2
        y1, y2 = float(upper.layer * step + depth), float(lower.layer * step)
        tip = lower.stage is not None
        arrow = ' marker-end="url(#recipe-tip)"' if tip else ""
        y2 = y2 - 5 if tip else y2 + _HEIGHT / 2
        middle = (y1 + y2) / 2
        parts.append(
            f'<path class="edge" d="M{upper.x:.1f} {y1:.1f} C{upper.x:.1f} {middle:.1f} {lower.x:.1f} {middle:.1f} '
            f'{lower.x:.1f} {y2:.1f}"{arrow}/>'
        )
    for row in rows:
        for place in row:
            if place.stage is not None:
                parts.append(_node(place, place.layer * step, place.stage, chips.get(place.key, ())))
    tip_shape = (
        '<defs><marker id="recipe-tip" viewBox="0 0 8 8" refX="3" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path class="tip" d="M0 0L8 4L0 8z"/></marker></defs>'
    )
    return (
        f'<svg class="recipe" role="img" aria-label="Stages of the recipe and what each uses" '
        f'viewBox="-2 -2 {width + 4:.0f} {height + 4:.0f}" width="{width + 4:.0f}" '
        f'style="min-width:min(35rem,{width + 4:.0f}px)">{tip_shape}{"".join(parts)}</svg>'
    )


def gantt_svg(run: Run) -> str:
    """A bar for each stage that has run: at the times of the ledger, or one after the other where those are not
    known."""
    spans = _spans(run)
    if not spans:
        return ""
    begin, end = min(start for start, _ in spans.values()), max(stop for _, stop in spans.values())
    total = max(end - begin, 1e-9)
    label, width, row_height = 128.0, 640.0, 20
    scale = (width - label - 64) / total
    parts: list[str] = []
    for number, (name, (start, stop)) in enumerate(sorted(spans.items(), key=lambda item: item[1])):
        stage = run.stage(name)
        assert stage is not None
        y = number * row_height
        x = label + (start - begin) * scale
        length = max((stop - start) * scale, 1.5)
        parts.append(
            f'<text class="bar-name" x="{label - 8:.0f}" y="{y + 14}" text-anchor="end">{escape(name)}</text>'
            f'<line class="rail" x1="{label:.0f}" x2="{width - 64:.0f}" y1="{y + 10}" y2="{y + 10}"/>'
            f'<rect class="bar {kind_class(stage.kind)}" x="{x:.1f}" y="{y + 3}" width="{length:.1f}" height="14" '
            f'rx="3"/>'
            f'<text class="bar-time" x="{x + length + 5:.1f}" y="{y + 14}">{escape(duration(stop - start))}</text>'
        )
    height = len(spans) * row_height
    return (
        f'<svg class="gantt" role="img" aria-label="When each stage ran" viewBox="0 0 {width:.0f} {height}" '
        f'width="{width:.0f}">{"".join(parts)}</svg>'
    )


def _chips(run: Run) -> dict[str, list[Stage]]:
    """Producer's name -> the evaluations drawn below it: those that nothing else uses."""
    used = {source for stage in run.stages for sources in stage.inputs.values() for source in sources}
    chips: dict[str, list[Stage]] = {}
    for stage in run.of_kind("evaluate"):
        producer = run.producer(evaluated_model(stage))
        if producer is not None and stage.name not in used:
            chips.setdefault(producer.name, []).append(stage)
    return chips


def _edges(stages: Sequence[Stage]) -> list[tuple[str, str]]:
    """Who uses whom. A stage without inputs that many use (a tokenizer, problems) is joined only to its first users."""
    names = {stage.name for stage in stages}
    edges = dict.fromkeys(
        (source, stage.name)
        for stage in stages
        for sources in stage.inputs.values()
        for source in sources
        if source in names and source != stage.name
    )
    layer = layers_of([stage.name for stage in stages], list(edges))
    first: dict[str, int] = {}
    for stage in stages:
        users = [layer[target] for source, target in edges if source == stage.name]
        if not stage.inputs and len(users) > 2:
            first[stage.name] = min(users)
    return [(source, target) for source, target in edges if layer[target] <= first.get(source, layer[target])]


def _with_bends(
    stages: Sequence[Any], edges: Sequence[tuple[str, str]], layer: Mapping[str, int]
) -> tuple[list[list[_Place]], list[tuple[str, str]]]:
    rows: list[list[_Place]] = [[] for _ in range(max(layer.values(), default=0) + 1)]
    for stage in stages:
        rows[layer[stage.name]].append(_Place(stage.name, layer[stage.name], stage))
    links: list[tuple[str, str]] = []
    for source, target in edges:
        above = source
        for depth in range(layer[source] + 1, layer[target]):
            bend = f"{source}>{target}@{depth}"
            rows[depth].append(_Place(bend, depth, None))
            links.append((above, bend))
            above = bend
        links.append((above, target))
    return rows, links


def _neighbours(links: Sequence[tuple[str, str]]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    above: dict[str, list[str]] = {}
    below: dict[str, list[str]] = {}
    for source, target in links:
        above.setdefault(target, []).append(source)
        below.setdefault(source, []).append(target)
    return above, below


def _order(rows: list[list[_Place]], links: Sequence[tuple[str, str]]) -> None:
    """Sorts each row by the mean place of its neighbours, down and up in turn, and keeps the order with fewest
    crossings."""
    above, below = _neighbours(links)
    best, fewest = [list(row) for row in rows], _crossings(rows, links)
    for sweep in range(12):
        near = above if sweep % 2 == 0 else below
        for row in rows if sweep % 2 == 0 else reversed(rows):
            rank = {place.key: at / max(1, len(line) - 1) for line in rows for at, place in enumerate(line)}
            means = {p.key: _mean([rank[key] for key in near[p.key]]) if p.key in near else rank[p.key] for p in row}
            row.sort(key=lambda place: means[place.key])
        crossings = _crossings(rows, links)
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
    for number, row in enumerate(best):
        rows[number] = row


def _crossings(rows: Sequence[Sequence[_Place]], links: Sequence[tuple[str, str]]) -> int:
    rank = {place.key: at for row in rows for at, place in enumerate(row)}
    depth = {place.key: place.layer for row in rows for place in row}
    count = 0
    for number, (a, b) in enumerate(links):
        for c, d in links[number + 1 :]:
            if depth[a] == depth[c] and (rank[a] - rank[c]) * (rank[b] - rank[d]) < 0:
                count += 1
    return count


def _spread(rows: Sequence[Sequence[_Place]], links: Sequence[tuple[str, str]]) -> float:
    """Gives every place its x, near the mean of its neighbours and clear of the next; returns the whole width."""
    above, below = _neighbours(links)
    by_key = {place.key: place for row in rows for place in row}
    for row in rows:
        _pack(row, [0.0] * len(row))
    for sweep in range(30):
        near = above if sweep % 2 == 0 else below
        for row in rows if sweep % 2 == 0 else list(reversed(rows)):
            wanted = [_mean([by_key[key].x for key in near[p.key]]) if p.key in near else p.x for p in row]
            _pack(row, wanted)
    left = min((place.x - place.width / 2 for place in by_key.values()), default=0.0)
    for place in by_key.values():
        place.x -= left
    return max((place.x + place.width / 2 for place in by_key.values()), default=0.0)


def _pack(row: Sequence[_Place], wanted: Sequence[float]) -> None:
    """Least-squares places in the given order with the least distances kept (pool adjacent violators)."""
    offsets = [0.0]
    for left, right in zip(row, row[1:], strict=False):
        offsets.append(offsets[-1] + (left.width + right.width) / 2 + _GAP_X)
    pools: list[tuple[float, int]] = []
    for goal, offset in zip(wanted, offsets, strict=False):
        pools.append((goal - offset, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (mean_1, size_1), (mean_2, size_2) = pools[-2], pools[-1]
            pools[-2:] = [((mean_1 * size_1 + mean_2 * size_2) / (size_1 + size_2), size_1 + size_2)]
    shifts = [mean for mean, size in pools for _ in range(size)]
    for place, shift, offset in zip(row, shifts, offsets, strict=False):
        place.x = shift + offset


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _node(place: _Place, y: float, stage: Stage, evaluations: Sequence[Stage]) -> str:
    x = place.x - _WIDTH / 2
    time = duration(stage.seconds) if stage.done else _status_words(stage.status)
    note = f"{stage.kind.replace('_', ' ')} · {time}"
    parts = [
        f'<g class="node {kind_class(stage.kind)}{"" if stage.done else " pending"}">'
        f'<rect x="{x:.1f}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="7"/>'
        f'<text class="node-name" x="{place.x:.1f}" y="{y + 20}">{escape(stage.name)}</text>'
        f'<text class="node-note" x="{place.x:.1f}" y="{y + 36}">{escape(note)}</text></g>'
    ]
    for number, evaluation in enumerate(evaluations):
        top = y + _HEIGHT + number * _CHIP
        score = parse_measure(evaluation.metrics.get("pass@1"))
        measured = f"pass@1 {percent(score.value)}" if score is not None else "evaluate"
        when = duration(evaluation.seconds) if evaluation.done else _status_words(evaluation.status)
        parts.append(
            f'<g class="chip{"" if evaluation.done else " pending"}">'
            f'<rect x="{x + 8:.1f}" y="{top}" width="{_WIDTH - 16}" height="{_CHIP}"/>'
            f'<text x="{place.x:.1f}" y="{top + 14}">{escape(f"{measured} · {when}")}</text></g>'
        )
    return "".join(parts)


def _status_words(status: str) -> str:
    return "not run yet" if status == "missing" else status


def _spans(run: Run) -> dict[str, tuple[float, float]]:
    """Stage -> when it started and stopped, in seconds."""
    ran = [stage for stage in run.stages if stage.seconds is not None]
    spans: dict[str, tuple[float, float]] = {}
    for stage in ran:
        stop, start = _moment(stage.finished), _moment(stage.started)
        if stop is None:
            break
        spans[stage.name] = (stop - (stage.seconds or 0.0) if start is None else start, stop)
    busy = sum(stage.seconds or 0.0 for stage in ran)
    if len(spans) == len(ran) and spans:
        whole = max(stop for _, stop in spans.values()) - min(start for start, _ in spans.values())
        if whole <= 2 * busy:  # a run that was left and resumed would be mostly gap
            return spans
    spans, clock = {}, 0.0
    for stage in ran:
        spans[stage.name] = (clock, clock + (stage.seconds or 0.0))
        clock += stage.seconds or 0.0
    return spans


def _moment(stamp: object) -> float | None:
    if isinstance(stamp, str):
        try:
            return datetime.fromisoformat(stamp).timestamp()
        except ValueError:
            return None
    return finite(stamp)
