"""The drawing's layout: layers by longest path, nothing overlaps, edges point down."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from aha.report.graph import gantt_svg, layers_of, recipe_svg
from aha.report.reading import load_run

WriteRun = Callable[..., Path]


def test_layers_are_longest_paths() -> None:
    edges = [("a", "b"), ("b", "c"), ("a", "c"), ("d", "c")]
    assert layers_of(["c", "b", "a", "d"], edges) == {"a": 0, "d": 0, "b": 1, "c": 2}
    with pytest.raises(ValueError, match="cycle"):
        layers_of(["a", "b"], [("a", "b"), ("b", "a")])


def test_nodes_do_not_overlap_and_stay_inside(write_run: WriteRun) -> None:
    svg = recipe_svg(load_run(write_run()))
    box = re.search(r'viewBox="-2 -2 (\d+) (\d+)"', svg)
    assert box is not None
    nodes = [
        tuple(map(float, found))
        for found in re.findall(
            r'<g class="node[^>]*><rect x="([-\d.]+)" y="([-\d.]+)" width="(\d+)" height="(\d+)"', svg
        )
    ]
    assert len(nodes) == 15
    for number, (x, y, width, height) in enumerate(nodes):
        assert x >= -0.1 and x + width <= int(box.group(1)) and y + height <= int(box.group(2))
        for other_x, other_y, _, _ in nodes[number + 1 :]:
            assert abs(x - other_x) >= width or abs(y - other_y) >= height
    assert svg.count('<g class="chip') == 10


def test_strip_places_stages_at_their_times(write_run: WriteRun) -> None:
    run = load_run(write_run())
    svg = gantt_svg(run)
    names = re.findall(r'<text class="bar-name"[^>]*>(\w+)<', svg)
    bars = re.findall(r'<rect class="bar [^"]*" x="([\d.]+)" y="\d+" width="([\d.]+)"', svg)
    assert sorted(names) == sorted(stage.name for stage in run.stages)
    starts = [float(x) for x, _ in bars]
    assert starts == sorted(starts)
    seconds = {stage.name: stage.seconds or 1 for stage in run.stages}
    timed = [(float(width), seconds[name]) for name, (_, width) in zip(names, bars, strict=True) if float(width) > 20]
    scale = [round(width / took, 2) for width, took in timed]
    assert max(scale) - min(scale) <= 0.011
    assert gantt_svg(load_run(write_run(finished=[]))) == ""
