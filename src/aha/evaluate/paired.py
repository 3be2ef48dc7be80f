"""Two models on the same problems: is one better? Problem by problem, which takes the problems' difficulty out.

The interval is the bootstrap's over problems; the p-value is the permutation test's: were the models equal, each
problem's difference could as well have the other sign (Fisher 1935; facts of 30-problem sets: arXiv 2504.07086).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aha.evaluate.bootstrap import percentile_interval
from aha.evaluate.estimators import Estimate, share_interval

SIGNIFICANT = 0.05
FLIPS = 20_000
_EXACT = 14  # 2^14 sign patterns are fewer than FLIPS


@dataclass(frozen=True)
class Comparison:
    """``Comparison(difference=Estimate(0.04, 0.01, 0.07), p_value=0.006, better=31, worse=12, equal=57)``: the second
    model's mean minus the first's, and on how many problems it scores more, less, the same."""

    difference: Estimate
    p_value: float
    better: int
    worse: int
    equal: int

    @property
    def real(self) -> bool:
        """Whether test and interval both say that the difference is more than chance."""
        outside = self.difference.low > 0 or self.difference.high < 0
        return self.p_value < SIGNIFICANT and outside

    def as_dict(self) -> dict[str, Any]:
        counts = {"better": self.better, "worse": self.worse, "equal": self.equal}
        return {**self.difference.as_dict(), "p_value": self.p_value, **counts, "real": self.real}


def compare_paired(first_P: Sequence[float], second_P: Sequence[float], *, seed: int = 0) -> Comparison:
    """Compare two scores of each problem, of any unit. ``ValueError`` for two numbers of problems. No interval (NaN)
    for one problem that differs, and where none differs in what is no share."""
    gaps_P = np.asarray(second_P, dtype=np.float64) - np.asarray(first_P, dtype=np.float64)
    if gaps_P.any():
        difference = percentile_interval(gaps_P.tolist(), seed=seed)
    elif max(first_P, default=0.0) <= 1:  # no problem differs: as many could as Wilson's interval of none leaves
        share = share_interval(0, len(gaps_P))
        difference = Estimate(share.value, -share.high, share.high)
    else:
        difference = Estimate(0.0, math.nan, math.nan)
    return Comparison(
        difference=difference,
        p_value=sign_flip_test(gaps_P.tolist(), seed=seed),
        better=int((gaps_P > 0).sum()),
        worse=int((gaps_P < 0).sum()),
        equal=int((gaps_P == 0).sum()),
    )


def sign_flip_test(gaps_P: Sequence[float], *, seed: int = 0) -> float:
    """Two-sided p-value of a mean difference: exact for up to 14 problems that differ, else from 20,000 random sign
    patterns, with one added to both counts so that no p-value is zero (Phipson and Smyth 2010)."""
    gaps = np.asarray([gap for gap in gaps_P if gap], dtype=np.float64)
    if not len(gaps):
        return 1.0
    rounding = 1e-9 * np.abs(gaps).sum()
    least = abs(float(gaps.sum())) - rounding
    if len(gaps) <= _EXACT:
        patterns = (np.arange(1 << len(gaps))[:, None] >> np.arange(len(gaps))) & 1
        return float((np.abs((1 - 2 * patterns) @ gaps) >= least).mean())
    rng = np.random.default_rng(seed)
    extreme, block = 0, 1_000
    for _ in range(FLIPS // block):
        signs = rng.integers(0, 2, (block, len(gaps)), dtype=np.int8) * 2 - 1
        extreme += int((np.abs(signs @ gaps) >= least).sum())
    return (extreme + 1) / (FLIPS + 1)
