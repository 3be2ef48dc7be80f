"""What a preference model is worth: every figure by hand, and on simulated models whose truth is known."""

from __future__ import annotations

import math
import random

import pytest

from aha.errors import DataError
from aha.evaluate.preference import correlation, expected_calibration_error, label_report, pair_report, reliability


def test_a_reliability_curve_by_hand() -> None:
    curve = reliability([0.05, 0.15, 0.11, 1.0, 0.95], [False, True, False, True, False])
    assert [(b.low, b.count, round(b.predicted, 3), b.share) for b in curve] == [
        (0.0, 1, 0.05, 0.0), (0.1, 2, 0.13, 0.5), (0.9, 2, 0.975, 0.5)
    ]  # fmt: skip
    assert expected_calibration_error(curve) == pytest.approx((1 * 0.05 + 2 * 0.37 + 2 * 0.475) / 5)
    assert curve[1].share_low < 0.5 < curve[1].share_high
    assert [b.low for b in reliability([0.19, 0.96], [True, True])] == [0.1, 0.9]
    assert math.isnan(expected_calibration_error([]))


def test_correlation_by_hand() -> None:
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert correlation([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)
    assert math.isnan(correlation([1, 1], [2, 3])) and math.isnan(correlation([1], [2]))


def test_pairs_by_hand() -> None:
    found = pair_report([2.0, 0.0, 1.0, -1.0], [0.0, 1.0, 1.0, -900.0], [5, 3, 9, 4], [2, 6, 1, 4])
    assert found["accuracy"]["value"] == 0.5  # equal scores are wrong
    assert found["length"]["longer_chosen"]["value"] == pytest.approx(2 / 3)  # equal lengths say nothing
    assert found["length"]["accuracy_longer_chosen"]["value"] == 0.5
    assert found["length"]["accuracy_shorter_chosen"]["value"] == 0.0
    first = found["calibration"]["bins"][0]
    assert (first["low"], first["high"]) == (0.5, 0.55)  # a confidence is never less than one half


def simulate(sharpness: float, taste_for_length: float) -> dict[str, float]:
    """A model whose scores are the true ones times ``sharpness``, with something for length."""
    rng = random.Random(0)
    chosen, rejected, sizes, others = [], [], [], []
    for _ in range(4_000):
        gap, lengths = rng.gauss(0, 1.5), (rng.randint(1, 60), rng.randint(1, 60))
        first = rng.random() < 1 / (1 + math.exp(-gap))  # the first is preferred as often as its true score says
        scores = (sharpness * gap + taste_for_length * lengths[0], taste_for_length * lengths[1])
        a, b = (0, 1) if first else (1, 0)
        chosen.append(scores[a]), rejected.append(scores[b]), sizes.append(lengths[a]), others.append(lengths[b])
    found = pair_report(chosen, rejected, sizes, others)
    return {"ece": found["calibration"]["ece"], "length": found["length"]["correlation"]}


def test_only_true_probabilities_are_calibrated_and_a_taste_for_length_shows() -> None:
    assert simulate(1.0, 0.0)["ece"] < 0.04
    assert simulate(5.0, 0.0)["ece"] > 0.15
    assert abs(simulate(1.0, 0.0)["length"]) < 0.05
    assert simulate(1.0, 0.1)["length"] > 0.6


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="1 of 2 scores are nan"):
        pair_report([math.nan], [0.0], [1], [1])
    with pytest.raises(DataError, match="1 of 2 scores are inf"):
        label_report([math.inf, 0.0], [1.0, 0.0], [1, 1])


def test_labels_by_hand() -> None:
    found = label_report([2.0, -1.0, 0.5, -3.0], [1.0, 0.0, 0.0, 1.0], [8, 2, 5, 1])
    assert found["accuracy"]["value"] == 0.5
    assert found["accuracy_good"]["value"] == 0.5 and found["accuracy_bad"]["value"] == 0.5
    assert found["length"]["correlation_of_labels"] == pytest.approx(correlation([1, 0, 0, 1], [8, 2, 5, 1]))
    assert sum(b["count"] for b in found["calibration"]["bins"]) == 4
