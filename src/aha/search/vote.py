"""Votes among many texts: the answer that most of them, or the best of them, agree on."""

from __future__ import annotations

from collections.abc import Sequence

from aha.rollout.engine import SamplingParams
from aha.search.majority import weighted_majority
from aha.search.path import Choice, Key, Path, Strategy, judge, write
from aha.search.scores import Aggregate


def choose(paths: Sequence[Path], weights: Sequence[float], key: Key) -> Path:
    """The heaviest path among those that give the answer of the weighted vote; of all where none gives an answer."""
    keys = [key(path) for path in paths]
    winner = weighted_majority(keys, weights)
    rows = [i for i, own in enumerate(keys) if own == winner]
    return paths[max(rows, key=weights.__getitem__)]


def vote(
    root: Path, params: SamplingParams, *, samples: int, key: Key, aggregate: Aggregate | None = None
) -> Strategy:
    """Self-consistency (Wang et al. 2022). With ``aggregate`` each text weighs what its scores come to: best-of-N
    weighted (Snell et al. 2408.03314, 5.1)."""
    (paths,) = yield from write([root], samples, params)
    weights = [1.0] * samples
    if aggregate is not None:
        weights = [aggregate(scores) for scores in (yield from judge(paths))]
    return Choice(choose(paths, weights, key), tuple(paths))
