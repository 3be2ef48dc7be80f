"""Best-of-N: of N texts the one that an outcome or process reward model likes best."""

from __future__ import annotations

from aha.rollout.engine import SamplingParams
from aha.search.path import Choice, Path, Strategy, judge, write
from aha.search.scores import Aggregate


def best_of_n(root: Path, params: SamplingParams, *, samples: int, aggregate: Aggregate) -> Strategy:
    """The text with the highest aggregated score; ties go to the first."""
    (paths,) = yield from write([root], samples, params)
    values = [aggregate(scores) for scores in (yield from judge(paths))]
    return Choice(paths[max(range(samples), key=values.__getitem__)], tuple(paths))
