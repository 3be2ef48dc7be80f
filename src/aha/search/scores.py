"""From the scores of the steps of a text to the score of the text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Aggregate = Callable[[Sequence[float]], float]


def last(scores: Sequence[float]) -> float:
    """What the last step leads to: the whole for a scorer of outcomes, and the best of the three for process reward
    models trained on Monte-Carlo labels (Snell et al. 2408.03314, appendix E)."""
    return scores[-1]


AGGREGATES: dict[str, Aggregate] = {"last": last, "min": min, "product": math.prod}
"""``min`` and ``product`` of the steps are Lightman et al.'s (2305.20050)."""
