"""Intervals cover the truth in 93 to 97 % of 1,000 simulated evaluations; bounds by hand and by enumeration."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest

from aha.evaluate.bootstrap import again_interval, bootstrap_interval, percentile_interval
from aha.evaluate.estimators import Z95, pass_values, share_interval, student_t

TRIALS, RESAMPLES = 1_000, 1_000


def evaluations(rng: np.random.Generator, problems: int, samples: int, a: float, b: float) -> np.ndarray:
    """Right answers of every sample: [trials, problems, samples]; each problem's own rate is drawn from Beta(a, b)."""
    rates = rng.beta(a, b, (TRIALS, problems, 1))
    return rng.random((TRIALS, problems, samples)) < rates


@pytest.mark.parametrize(
    ("problems", "samples", "a", "b"), [(60, 4, 1.0, 1.0), (60, 16, 0.5, 0.8), (100, 1, 2.0, 1.0), (40, 4, 60.0, 40.0)]
)
def test_pass_at_1_over_problems_covers_the_truth(problems: int, samples: int, a: float, b: float) -> None:
    values = evaluations(np.random.default_rng(1), problems, samples, a, b).mean(axis=2)
    covered = 0
    for trial, row in enumerate(values):
        estimate = bootstrap_interval(row.tolist(), seed=trial, resamples=RESAMPLES)
        covered += estimate.low <= a / (a + b) <= estimate.high
    assert 0.93 <= covered / TRIALS <= 0.97


def test_pass_at_k_over_problems_covers_the_truth() -> None:
    right = evaluations(np.random.default_rng(2), 50, 8, 1.0, 2.0)
    truth = 1 - math.prod((2 + i) / (3 + i) for i in range(4))  # E[1 - (1 - p)^4] of Beta(1, 2)
    covered = 0
    for trial, correct in enumerate(right.tolist()):
        estimate = bootstrap_interval(pass_values(correct, 4), seed=trial, resamples=RESAMPLES)
        covered += estimate.low <= truth <= estimate.high
    assert 0.93 <= covered / TRIALS <= 0.97


def test_lengths_which_are_skewed_are_covered_too() -> None:
    values = np.random.default_rng(3).gamma(2.0, 100.0, (TRIALS, 80))
    covered = 0
    for trial, row in enumerate(values):
        estimate = percentile_interval(row.tolist(), seed=trial, resamples=RESAMPLES)
        covered += estimate.low <= 200.0 <= estimate.high
    assert 0.93 <= covered / TRIALS <= 0.97


@pytest.mark.parametrize(("problems", "samples"), [(30, 4), (30, 64)])
def test_sampling_the_same_problems_again_is_covered(problems: int, samples: int) -> None:
    rng = np.random.default_rng(4)
    rates = rng.beta(1.0, 1.0, problems)
    covered = 0
    for _ in range(TRIALS):
        estimate = again_interval((rng.random((problems, samples)) < rates[:, None]).tolist())
        covered += estimate.low <= rates.mean() <= estimate.high
    assert 0.93 <= covered / TRIALS <= 0.97


def test_resampling_inside_problems_too_would_count_their_noise_twice() -> None:
    """The plain two-level bootstrap on problems that are all alike: its variance is nearly twice the truth's."""
    rng = np.random.default_rng(5)
    right = rng.random((50, 4)) < 0.5
    problems = rng.integers(0, 50, (20_000, 50))
    twice = rng.binomial(4, right.mean(axis=1)[problems]).mean(axis=1) / 4
    once = right.mean(axis=1)[problems].mean(axis=1)
    inside = (right.mean(axis=1) * (1 - right.mean(axis=1))).mean() / 4 / 50
    assert twice.var() == pytest.approx(once.var() + inside, rel=0.05)
    assert twice.var() > 1.5 * once.var()


def test_the_resampled_means_are_those_of_every_resample() -> None:
    values = [0.0, 0.25, 1.0]
    every = sorted(sum(draw) / 3 for draw in itertools.product(values, repeat=3))
    estimate = percentile_interval(values, resamples=40_000)
    # With 3 problems the tails, expanded and moved, are below 1/27, so both bounds are the extremes.
    assert (estimate.value, estimate.low, estimate.high) == (pytest.approx(5 / 12), every[0], every[-1])


def test_the_percentiles_are_moved_by_bias_and_skew_as_by_hand() -> None:
    values = np.array([0.0] * 28 + [1.0, 0.5])
    gaps = values - values.mean()
    skew = (gaps**3).sum() / (6 * (gaps**2).sum() ** 1.5)
    means = np.random.default_rng(0).choice(values, (40_000, 30)).mean(axis=1)
    bias = NormalDist().inv_cdf(((means < 0.05).mean() + (means <= 0.05).mean()) / 2)
    z = math.sqrt(30 / 29) * student_t(29)
    levels = [NormalDist().cdf(bias + (bias + way) / (1 - skew * (bias + way))) for way in (-z, z)]
    assert 0.04 < levels[0] < 0.1 and levels[1] > 0.995  # both go up, to the side of the two that were solved
    estimate = percentile_interval(values.tolist(), resamples=40_000)
    assert (estimate.low, estimate.high) == pytest.approx(np.quantile(means, levels).tolist(), abs=0.004)
    mirrored = percentile_interval((1 - values).tolist(), resamples=40_000)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((estimate.low, estimate.high), abs=0.01)
    assert percentile_interval([0.5, 0.5, 0.5]).as_dict() == {"value": 0.5, "low": 0.5, "high": 0.5}


def test_a_hard_benchmark_is_covered_too() -> None:
    """30 problems of which a model solves 6 %, most never: plain percentiles hold the truth in 90 %."""
    rng, covered = np.random.default_rng(6), 0
    pool = rng.beta(0.2, 3.0, 4_000)
    for trial in range(TRIALS):
        rates = rng.choice(pool, 30)
        values = (rng.binomial(16, rates) / 16).tolist()
        estimate = bootstrap_interval(values, seed=trial, resamples=RESAMPLES)
        covered += estimate.low <= pool.mean() <= estimate.high
    assert 0.92 <= covered / TRIALS <= 0.97


def test_special_cases_keep_an_honest_width() -> None:
    assert bootstrap_interval([1.0] * 20).as_dict() == share_interval(20, 20).as_dict()
    assert bootstrap_interval([0.4]).as_dict() == {"value": 0.4, "low": 0.0, "high": 1.0}
    assert all(math.isnan(v) for v in bootstrap_interval([]).as_dict().values())
    assert math.isnan(again_interval([[True], [False]]).low) and again_interval([[True], [False]]).value == 0.5
    for seed in range(99):  # so few resamples may all lie on one side of the mean
        few = percentile_interval([3.0, 4.0, 9.0], seed=seed, resamples=3)
        assert few.low <= few.value <= few.high
    assert percentile_interval([3.0, 4.0, 9.0]) == percentile_interval([3.0, 4.0, 9.0])  # the same every time


def test_samples_that_agree_and_problems_that_tie_leave_a_width() -> None:
    """Rates of 2.5 of 3 each: 1.96 sqrt(5 x 0.1389 / 2) / 5 below 1. Ties: Wilson's of as many whole ones."""
    estimate = again_interval([[True, True]] * 5)
    assert estimate.as_dict() == {"value": 1.0, "low": pytest.approx(1 - 0.231, abs=1e-3), "high": 1.0}
    assert bootstrap_interval([0.5] * 4).as_dict() == share_interval(2, 4).as_dict()


def test_again_by_hand() -> None:
    estimate = again_interval([[True, False], [True, True]])
    half = Z95 * math.sqrt(0.25 / 1) / 2
    assert (estimate.low, estimate.high) == (pytest.approx(0.75 - half), 1.0)


def test_students_t_against_the_tables() -> None:
    assert student_t(1) == 12.706 and student_t(15) == 2.131
    for freedom, published in ((16, 2.120), (20, 2.086), (30, 2.042), (60, 2.000), (120, 1.980)):
        assert student_t(freedom) == pytest.approx(published, abs=8e-4)
