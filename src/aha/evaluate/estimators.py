"""Estimators of an evaluation, each with a 95 % interval that treats problems, not samples, as the independent draws.

``correct_PK`` has one row a problem and one column a sample.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass

from aha.search.majority import majority

Z95 = 1.959964


@dataclass(frozen=True)
class Estimate:
    """``Estimate(value=0.84, low=0.79, high=0.88)``."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def mean_interval(values_P: Sequence[float], *, minimum: float = -math.inf, maximum: float = math.inf) -> Estimate:
    """Mean over problems and its normal interval from the spread between problems."""
    count = len(values_P)
    if count == 0:
        return Estimate(math.nan, math.nan, math.nan)
    mean = sum(values_P) / count
    if count == 1:
        return Estimate(mean, minimum, maximum)
    error = math.sqrt(sum((v - mean) ** 2 for v in values_P) / (count - 1) / count)
    return Estimate(mean, max(minimum, mean - Z95 * error), min(maximum, mean + Z95 * error))


# 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom.
_T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


def seeds_interval(
    values_S: Sequence[float], *, minimum: float = -math.inf, maximum: float = math.inf
) -> Estimate:
    """Mean over training seeds and its interval by Student's t, cut to what can be: seeds are few, and a normal
    interval of five is a third too narrow. One seed has no interval: NaN."""
    count = len(values_S)
    if count < 2:
        return Estimate(values_S[0] if values_S else math.nan, math.nan, math.nan)
    mean = sum(values_S) / count
    error = math.sqrt(sum((v - mean) ** 2 for v in values_S) / (count - 1) / count)
    half = error * student_t(count - 1)
    return Estimate(mean, max(minimum, mean - half), min(maximum, mean + half))


def student_t(freedom: int) -> float:
    """97.5 % quantile of Student's t: from the table, and beyond it by Fisher's expansion, good to four digits."""
    if freedom <= len(_T975):
        return _T975[freedom - 1]
    return Z95 + (Z95**3 + Z95) / (4 * freedom) + (5 * Z95**5 + 16 * Z95**3 + 3 * Z95) / (96 * freedom**2)


def share_interval(successes: float, count: int) -> Estimate:
    """A share of problems with Wilson's interval, which keeps a width at 0 and 1. A success may be a part of one."""
    if count == 0:
        return Estimate(math.nan, math.nan, math.nan)
    share, z2 = successes / count, Z95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    low = max(0.0, centre - half) if successes else 0.0  # exactly, where rounding would leave a trace
    return Estimate(share, low, min(1.0, centre + half) if successes < count else 1.0)


def score_interval(values_P: Sequence[float]) -> Estimate:
    """Mean of scores between 0 and 1: Wilson's interval where every problem scores 0 or 1, or all the same, whose
    spread says nothing; else the normal one."""
    if all(v in (0.0, 1.0) for v in values_P):
        return share_interval(round(sum(values_P)), len(values_P))
    if len(values_P) > 1 and len(set(values_P)) == 1:
        return share_interval(sum(values_P), len(values_P))
    return mean_interval(values_P, minimum=0.0, maximum=1.0)


def pass_at_1(correct_PK: Sequence[Sequence[bool]]) -> Estimate:
    """Mean correctness over k samples, (1/k) sum p_i (R1v1 3)."""
    return score_interval([sum(row) / len(row) for row in correct_PK])


def pass_at_k(correct_PK: Sequence[Sequence[bool]], k: int) -> Estimate:
    """Unbiased chance that one of k samples is right: 1 - C(n-c, k) / C(n, k) (Chen et al. 2021, eq. 1)."""
    return score_interval(pass_values(correct_PK, k))


def pass_values(correct_PK: Sequence[Sequence[bool]], k: int) -> list[float]:
    """pass@k of every problem."""
    values = []
    for row in correct_PK:
        n, c = len(row), sum(row)
        if k > n:
            raise ValueError(f"pass@{k} needs at least {k} samples a problem, there are {n}")
        values.append(1.0 - math.comb(n - c, k) / math.comb(n, k))
    return values


def cons_at_k(
    keys_PK: Sequence[Sequence[Hashable | None]], correct_PK: Sequence[Sequence[bool]], k: int
) -> Estimate:
    """Accuracy of the majority vote over k samples, averaged over the disjoint blocks of k that the samples hold."""
    return score_interval(cons_values(keys_PK, correct_PK, k))


def cons_values(
    keys_PK: Sequence[Sequence[Hashable | None]], correct_PK: Sequence[Sequence[bool]], k: int
) -> list[float]:
    """cons@k of every problem."""
    values = []
    for keys, correct in zip(keys_PK, correct_PK, strict=True):
        if k > len(keys):
            raise ValueError(f"cons@{k} needs at least {k} samples a problem, there are {len(keys)}")
        blocks = []
        for start in range(0, len(keys) - k + 1, k):
            winner = majority(keys[start : start + k])
            blocks.append(winner is not None and correct[keys.index(winner, start)])
        values.append(sum(blocks) / len(blocks))
    return values
