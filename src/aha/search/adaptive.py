"""The compute-optimal choice: which strategy for which difficulty (Snell et al. 2408.03314, 3.2)."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence

from aha.errors import DataError
from aha.rollout.engine import SamplingParams
from aha.search.path import Choice, Key, Path, Strategy, judge, write
from aha.search.scores import Aggregate, last
from aha.search.vote import choose


def difficulty_bins(success_P: Sequence[float], bins: int) -> list[int]:
    """Bin of each problem by quantiles of how well it is solved, 0 the easiest; equal problems keep their order.

    ``success_P`` is pass@1 from many samples (the oracle) or the mean score of a verifier (predicted).
    """
    order = sorted(range(len(success_P)), key=lambda p: -success_P[p])
    found = [0] * len(success_P)
    for rank, p in enumerate(order):
        found[p] = rank * bins // len(order)
    return found


def best_per_bin(correct: Mapping[str, Sequence[float]], bins_P: Sequence[int]) -> dict[int, str]:
    """The strategy with the highest mean in each bin; ties go to the one named first."""
    chosen = {}
    for number in sorted(set(bins_P)):
        rows = [p for p, own in enumerate(bins_P) if own == number]
        chosen[number] = max(correct, key=lambda name: sum(correct[name][p] for p in rows))
    return chosen


def cross_validated(correct: Mapping[str, Sequence[float]], bins_P: Sequence[int], *, folds: int = 2) -> list[float]:
    """What each problem scores under the strategy chosen for its bin on the other folds: the honest figure.

    The problems of a bin are dealt out to the folds in turn. ``DataError`` where a bin has one problem alone.
    """
    scores = [math.nan] * len(bins_P)
    folds_P = [bins_P[:p].count(number) % folds for p, number in enumerate(bins_P)]
    for fold in range(folds):
        rest = [p for p, own in enumerate(folds_P) if own != fold]
        chosen = best_per_bin({n: [own[p] for p in rest] for n, own in correct.items()}, [bins_P[p] for p in rest])
        for p in (p for p, own in enumerate(folds_P) if own == fold):
            if bins_P[p] not in chosen:
                raise DataError(f"bin {bins_P[p]} has no problem outside of fold {fold}: ask more problems")
            scores[p] = correct[chosen[bins_P[p]]][p]
    return scores


def adaptive(
    root: Path,
    params: SamplingParams,
    *,
    probes: int,
    thresholds: Sequence[float],
    plans: Sequence[Callable[[], Strategy] | None],
    key: Key,
    aggregate: Aggregate = last,
) -> Strategy:
    """``probes`` texts are judged; the mean score says which plan is run, and ``None`` answers with the probes' vote.

    ``thresholds`` grow; ``plans[b]`` is for a mean score with ``b`` of them at or under it, so the first is for the
    hardest problems. The tokens of the probes count.
    """
    assert len(plans) == len(thresholds) + 1 and list(thresholds) == sorted(thresholds)
    (paths,) = yield from write([root], probes, params)
    values = [aggregate(scores) for scores in (yield from judge(paths))]
    plan = plans[bisect_right(thresholds, sum(values) / probes)]
    if plan is None:
        return Choice(choose(paths, values, key), tuple(paths))
    return (yield from plan())
