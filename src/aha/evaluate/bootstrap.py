"""Intervals of a benchmark's score by resampling, for the two questions one can ask of it.

*Other problems of this kind* (``bootstrap_interval``): problems are drawn again with replacement, each with all of its
samples. The samples' own noise rides along in the problems' values; drawing samples again inside every problem, as the
plain two-level bootstrap does, would count it twice (Davison and Hinkley 1997, 3.8; a test shows the excess).

*These very problems, sampled again* (``again_interval``): the run-to-run noise, which on 30 problems is 5 to 15 points
(Hochlehner et al. 2025, arXiv 2504.07086). P problems, K samples of each, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from aha.evaluate.estimators import Z95, Estimate, share_interval, student_t

RESAMPLES = 10_000
_CHUNK = 1 << 22  # drawn indices at a time


def bootstrap_interval(values_P: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Mean over problems of scores between 0 and 1: ``percentile_interval``, or Wilson's where every problem scores 0
    or 1, or all the same, which keeps a width. NaN without problems; one problem says nothing of others."""
    if all(value in (0.0, 1.0) for value in values_P):
        return share_interval(round(sum(values_P)), len(values_P))
    if len(values_P) == 1:
        return Estimate(values_P[0], 0.0, 1.0)
    if len(set(values_P)) == 1:
        return share_interval(sum(values_P), len(values_P))
    return percentile_interval(values_P, seed=seed, resamples=resamples)


def percentile_interval(values_P: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Mean over problems, of any unit, with a 95 % interval of percentiles of its bootstrap.

    Which percentiles: "expanded" (Hesterberg 2015, 5.3), further out, as the variance of a resample divides by P and
    few problems follow Student's t; and moved to the side on which the values lie far out (bias-corrected and
    accelerated, Efron 1987), without which a benchmark that is nearly solved, or hardly at all, is covered too seldom.
    NaN bounds for fewer than two problems.
    """
    values, count = np.asarray(values_P, dtype=np.float64), len(values_P)
    if count < 2:
        return Estimate(float(values[0]) if count else math.nan, math.nan, math.nan)
    means, mean = _resampled_means(values, seed, resamples), float(values.mean())
    tails = _corrected_tails(values, means, z=math.sqrt(count / (count - 1)) * student_t(count - 1))
    low, high = np.quantile(means, tails)
    return Estimate(mean, min(float(low), mean), max(float(high), mean))


def _corrected_tails(values: NDArray[np.float64], means: NDArray[np.float64], *, z: float) -> tuple[float, float]:
    """The two percentiles for bounds ``z`` standard errors out, by Efron's (1987) equation 2.3."""
    gaps, normal = values - values.mean(), NormalDist()
    squares = float((gaps**2).sum())
    if squares == 0.0:
        return 0.0, 1.0
    under = (float((means < values.mean()).mean()) + float((means <= values.mean()).mean())) / 2
    bias = normal.inv_cdf(min(max(under, 1 / len(means)), 1 - 1 / len(means)))
    skew = float((gaps**3).sum()) / (6.0 * squares**1.5)
    low, high = (normal.cdf(bias + (bias + way * z) / (1.0 - skew * (bias + way * z))) for way in (-1.0, 1.0))
    return low, high


def again_interval(correct_PK: Sequence[Sequence[bool]]) -> Estimate:
    """pass@1 with the 95 % interval of sampling the same problems again: what the bootstrap over the samples of each
    problem tends to, with its variance times K / (K - 1), without which few samples look too sure. Where the samples of
    every problem agree, which says little of the next ones, each rate counts half a sample of either kind more.

    NaN bounds where a problem has fewer than two samples.
    """
    rates = np.array([sum(row) / len(row) for row in correct_PK])
    samples = np.array([len(row) for row in correct_PK])
    if not len(rates) or samples.min() < 2:
        return Estimate(float(rates.mean()) if len(rates) else math.nan, math.nan, math.nan)
    variances = rates * (1 - rates) / (samples - 1)
    if not variances.any():
        shrunk = (rates * samples + 0.5) / (samples + 1)
        variances = shrunk * (1 - shrunk) / samples
    half = Z95 * math.sqrt(float(variances.sum())) / len(rates)
    mean = float(rates.mean())
    return Estimate(mean, max(0.0, mean - half), min(1.0, mean + half))


def _resampled_means(values: NDArray[np.float64], seed: int, resamples: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // len(values))
    parts = []
    for start in range(0, resamples, rows):
        index_RP = rng.integers(0, len(values), (min(rows, resamples - start), len(values)), dtype=np.int32)
        parts.append(values[index_RP].mean(axis=1))
    return np.concatenate(parts)
