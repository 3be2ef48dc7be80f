"""Drawing by weight: the chances by hand, no repetition, weight 0 last."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from aha.data.draw import check_enough, weighted_sample
from aha.errors import DataError


def test_the_chances_are_those_of_drawing_one_after_the_other() -> None:
    """Weights 3, 2, 1, two draws: P(a, b) = 3/6 * 2/3, P(b, c) = 2/6 * 1/4, and so on."""
    rng, counts = random.Random(0), Counter[tuple[str, ...]]()
    for _ in range(20_000):
        counts[tuple(weighted_sample("abc", [3.0, 2.0, 1.0], 2, rng))] += 1
    expected = {"ab": 1 / 3, "ac": 1 / 6, "ba": 1 / 4, "bc": 1 / 12, "ca": 1 / 10, "cb": 1 / 15}
    for pair, chance in expected.items():
        assert counts[tuple(pair)] / 20_000 == pytest.approx(chance, abs=4 * (0.25 / 20_000) ** 0.5)


def test_it_draws_what_the_power_form_of_the_paper_draws() -> None:
    for seed in range(300):
        rng = random.Random(seed)
        weights = [random.Random(-seed).random() + 0.1] * 20 + [0.5] * 20
        keys = [rng.random() ** (1 / w) for w in weights]
        expected = sorted(range(40), key=keys.__getitem__, reverse=True)[:7]
        assert weighted_sample(range(40), weights, 7, random.Random(seed)) == expected


def test_tiny_weights_do_not_underflow_into_a_tie() -> None:
    """u ** (1 / 1e-6) is 0 for nearly every u: the first items would win."""
    rng = random.Random(0)
    first = Counter(weighted_sample(range(4), [1e-6] * 4, 1, rng)[0] for _ in range(4_000))
    assert all(count == pytest.approx(1_000, abs=120) for count in first.values())


def test_weight_0_comes_last_and_by_chance() -> None:
    for seed in range(50):
        assert set(weighted_sample("abcd", [0.0, 1.0, 0.0, 2.0], 2, random.Random(seed))) == {"b", "d"}
    third = Counter(weighted_sample("abcd", [0.0, 1.0, 0.0, 2.0], 3, random.Random(seed))[2] for seed in range(400))
    assert third.keys() == {"a", "c"} and min(third.values()) > 150


def test_nothing_twice_and_too_few_is_an_error() -> None:
    assert sorted(weighted_sample(range(9), [1.0] * 9, 9, random.Random(1))) == list(range(9))
    with pytest.raises(DataError, match="asks 3 different problems, there are only 2"):
        check_enough(2, 3)
