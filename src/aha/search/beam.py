"""Beam search over steps with a process reward model, and lookahead search (Snell et al. 2408.03314, 5.2)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

from aha.errors import SettingError
from aha.rollout.engine import SamplingParams
from aha.search.path import Choice, Judge, Key, Path, Strategy, Write, judge, write
from aha.search.scores import Aggregate, last
from aha.search.vote import choose


def beam(
    root: Path,
    params: SamplingParams,
    *,
    stops: tuple[str, ...],
    width: int,
    expand: int,
    key: Key,
    aggregate: Aggregate = last,
    lookahead: int = 0,
) -> Strategy:
    """``width`` first steps; the best ``width / expand`` are kept, each continued ``expand`` times, until all have
    ended; then a weighted vote over every text that was finished on the way.

    A step ends at one of ``stops``. A text that ends among the best keeps its place, so the beam narrows by it.
    With ``lookahead`` k a step is judged by where k more steps at temperature 0 lead; those are thrown away.
    """
    if expand < 1 or width < 1 or width % expand:
        raise SettingError(f"a beam of width {width} must be a multiple of expand, {expand}: it keeps width / expand")
    step = replace(params, stop=stops)
    places, copies, live = width // expand, width, [root]
    done: list[Path] = []
    weights: list[float] = []
    while live:
        children = [child for group in (yield from write(live, copies, step)) for child in group]
        ahead = yield from _look_ahead(children, replace(step, temperature=0.0), lookahead)
        values = [aggregate(scores) for scores in (yield from judge(ahead))]
        best = sorted(range(len(children)), key=lambda i: -values[i])[:places]
        for i, child in enumerate(children):
            if not child.is_open(step):
                done.append(child)
                weights.append(values[i])
        live = [children[i] for i in best if children[i].is_open(step)]
        places, copies = len(live), expand
    return Choice(choose(done, weights, key), tuple(done))


def _look_ahead(
    paths: Sequence[Path], params: SamplingParams, steps: int
) -> Generator[Write | Judge, Any, list[Path]]:
    """Each path as many steps further as there are to write."""
    ahead = list(paths)
    for _ in range(steps):
        rows = [i for i, path in enumerate(ahead) if path.is_open(params)]
        if rows:
            groups = yield from write([ahead[i] for i in rows], 1, params)
            for i, (path,) in zip(rows, groups, strict=True):
                ahead[i] = path
    return ahead
