from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from aha.evaluate.estimators import share_interval
from aha.evaluate.paired import compare_paired, sign_flip_test


def test_the_p_value_is_the_share_of_all_sign_patterns() -> None:
    gaps = [0.5, 0.25, -0.125, 0.0, 0.25]
    patterns = list(itertools.product((1, -1), repeat=5))
    extreme = [abs(sum(s * g for s, g in zip(signs, gaps, strict=True))) >= sum(gaps) - 1e-12 for signs in patterns]
    assert sign_flip_test(gaps) == pytest.approx(sum(extreme) / len(patterns))
    assert sign_flip_test([1.0] * 6) == pytest.approx(2 / 64)
    assert sign_flip_test([0.0, 0.0]) == 1.0


def test_many_problems_are_sampled_and_no_p_value_is_zero() -> None:
    assert 0 < sign_flip_test([1.0] * 60) < 1e-4
    gaps = [0.25, -0.25] * 10 + [0.25] * 4  # 14 of 24 signs up: two-sided binomial tail 0.5413
    assert sign_flip_test(gaps) == pytest.approx(0.5413, abs=0.015)


def test_a_comparison_by_hand() -> None:
    found = compare_paired([0.0, 0.5, 1.0, 0.25], [1.0, 0.5, 0.75, 0.5])
    assert found.difference.value == pytest.approx((1.0 + 0.0 - 0.25 + 0.25) / 4)
    assert (found.better, found.worse, found.equal) == (2, 1, 1)
    assert found.difference.low <= found.difference.value <= found.difference.high and not found.real
    same = compare_paired([0.5] * 10, [0.5] * 10)
    none = share_interval(0, 10).high
    assert same.difference.as_dict() == {"value": 0.0, "low": -none, "high": none} and not same.real
    tokens = compare_paired([30.0, 40.0], [30.0, 40.0])  # lengths: no share of anything
    assert tokens.difference.value == 0.0 and math.isnan(tokens.difference.low) and not tokens.real


def test_equal_models_are_rarely_called_different_and_pairing_sees_what_lies_apart() -> None:
    rng = np.random.default_rng(0)
    called, covered, seen, trials = 0, 0, 0, 250
    for trial in range(trials):
        rates = rng.beta(0.5, 0.5, 60)
        first, second = (rng.binomial(8, rates) / 8 for _ in range(2))
        equal = compare_paired(first.tolist(), second.tolist(), seed=trial)
        called += equal.real
        covered += equal.difference.low <= 0 <= equal.difference.high
        better = rng.binomial(8, np.minimum(1.0, rates + 0.1)) / 8
        seen += compare_paired(first.tolist(), better.tolist(), seed=trial).real
    assert called / trials <= 0.08 and 0.92 <= covered / trials <= 0.98  # 250 trials: 95 % give or take 2.8
    assert seen / trials > 0.9  # 8 points; unpaired intervals of 60 problems are 10 points to each side
