"""Estimators by hand arithmetic and against brute force over subsets."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest

from aha.evaluate.estimators import (
    Z95,
    cons_at_k,
    majority,
    mean_interval,
    pass_at_1,
    pass_at_k,
    score_interval,
    seeds_interval,
    share_interval,
)


def test_mean_and_normal_interval_by_hand() -> None:
    estimate = mean_interval([0.0, 0.5, 1.0, 0.5])
    deviation = math.sqrt((0.25 + 0.25) / 3)
    assert estimate.value == 0.5
    assert estimate.low == pytest.approx(0.5 - Z95 * deviation / 2)
    assert estimate.high == pytest.approx(0.5 + Z95 * deviation / 2)
    assert mean_interval([0.1, 0.9], minimum=0.0, maximum=1.0).as_dict() == {"value": 0.5, "low": 0.0, "high": 1.0}


def test_wilson_interval_against_published_values() -> None:
    half = share_interval(5, 10)  # 0.2366 to 0.7634
    assert (half.value, round(half.low, 4), round(half.high, 4)) == (0.5, 0.2366, 0.7634)
    none = share_interval(0, 10)  # 0 to z^2 / (n + z^2)
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(Z95**2 / (10 + Z95**2))
    every = share_interval(10, 10)
    assert (every.value, every.high) == (1.0, 1.0)
    assert every.low == pytest.approx(1 - none.high)


def test_seeds_have_students_interval_by_hand() -> None:
    """Three seeds, deviation 1: 4.303 of two degrees of freedom, over the square root of 3."""
    estimate = seeds_interval([1.0, 2.0, 3.0])
    assert (estimate.value, estimate.high) == (2.0, pytest.approx(2 + 4.303 / math.sqrt(3)))
    assert estimate.low == pytest.approx(4 - estimate.high)
    cut = seeds_interval([1.0, 2.0, 3.0], minimum=0.0, maximum=3.5)
    assert (cut.value, cut.low, cut.high) == (2.0, 0.0, 3.5)
    one = seeds_interval([0.4])
    assert one.value == 0.4 and math.isnan(one.low) and math.isnan(one.high)


def test_one_problem_says_nothing_and_none_is_not_a_number() -> None:
    one = mean_interval([0.4], minimum=0.0, maximum=1.0)
    assert (one.value, one.low, one.high) == (0.4, 0.0, 1.0)
    assert all(math.isnan(v) for v in mean_interval([]).as_dict().values())
    assert all(math.isnan(v) for v in share_interval(0, 0).as_dict().values())


@pytest.mark.parametrize(("seeds", "quantile"), [(2, 12.706), (5, 2.776), (16, 2.131), (17, 2.120), (31, 2.042)])
def test_the_interval_over_seeds_is_students_however_many(seeds: int, quantile: float) -> None:
    values = [float(i % 2) for i in range(seeds)]
    found, spread = seeds_interval(values), statistics.stdev(values)
    assert found.high - found.value == pytest.approx(quantile * spread / math.sqrt(seeds), rel=5e-4)
    assert found.value - found.low == pytest.approx(found.high - found.value)


def test_the_normal_interval_covers_the_truth_about_95_percent_of_the_time() -> None:
    rng = random.Random(0)
    covered = 0
    for _ in range(400):
        estimate = mean_interval([rng.random() ** 2 for _ in range(60)])
        covered += estimate.low <= 1 / 3 <= estimate.high
    assert 0.91 < covered / 400 < 0.98


def test_pass_at_1_is_the_mean_and_keeps_a_width_where_all_agree() -> None:
    assert pass_at_1([[True, False], [True, True]]).value == 0.75
    assert pass_at_1([[False] * 4] * 20).high > 0.05
    assert pass_at_1([[True] * 4] * 20).low < 0.95
    assert score_interval([0.0, 1.0]).as_dict() == share_interval(1, 2).as_dict()
    assert score_interval([0.5, 0.5]).as_dict() == share_interval(1, 2).as_dict()


@pytest.mark.parametrize("n", [1, 4, 7])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n: int) -> None:
    for k in range(1, n + 1):
        for c in range(n + 1):
            row = [i < c for i in range(n)]
            subsets = list(itertools.combinations(row, k))
            brute = sum(any(subset) for subset in subsets) / len(subsets)
            assert pass_at_k([row, row], k).value == pytest.approx(brute)


def test_pass_at_k_of_too_few_samples_is_an_error() -> None:
    with pytest.raises(ValueError, match="pass@3"):
        pass_at_k([[True, False]], 3)
    with pytest.raises(ValueError, match="cons@3"):
        cons_at_k([["a", "b"]], [[True, False]], 3)


def test_majority_counts_ties_to_the_first_and_abstentions_to_nobody() -> None:
    assert majority(["b", "a", "a"]) == "a"
    assert majority(["b", "a", "a", "b"]) == "b"
    assert majority([None, None, None, "a"]) == "a"
    assert majority([None, None]) is None
    assert majority([]) is None


def test_cons_at_k_votes_in_disjoint_blocks() -> None:
    keys = [["5", "6", "6", "5", "5", "7"]]
    right = [[key == "5" for key in keys[0]]]
    assert cons_at_k(keys, right, 1).value == pytest.approx(3 / 6)
    assert cons_at_k(keys, right, 3).value == pytest.approx(1 / 2)  # 6 wins the first block, 5 the second
    assert cons_at_k(keys, right, 6).value == 1.0
    assert cons_at_k(keys, right, 4).value == 1.0  # one block of four, a tie: the first seen
    assert cons_at_k([["5", "5", "6"]], [[True, True, False]], 2).value == 1.0  # what is left over is no block
    # a block has its own verdict of an answer, be it that the checker failed on the same one before
    assert cons_at_k([["5", "5"]], [[False, True]], 1).value == 0.5


def test_cons_at_k_is_wrong_where_everybody_abstains() -> None:
    assert cons_at_k([[None, None]], [[False, False]], 2).value == 0.0


def test_a_vote_of_one_is_pass_at_1() -> None:
    rng = random.Random(1)
    keys = [[rng.choice("abc") for _ in range(8)] for _ in range(20)]
    right = [[key == "a" for key in row] for row in keys]
    assert cons_at_k(keys, right, 1).value == pytest.approx(pass_at_1(right).value)
    assert pass_at_k(right, 1).value == pytest.approx(pass_at_1(right).value)
