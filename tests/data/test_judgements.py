"""The published rules for preference pairs: judgements averaged over both orders, clear gaps, balanced lengths."""

from __future__ import annotations

import random

import pytest

from aha.data.judgements import balanced, mean_gap
from aha.errors import DataError


def test_a_verdict_counts_for_the_response_and_not_for_the_place() -> None:
    assert mean_gap([("a", "A>>B"), ("b", "B>A"), ("b", "A=B"), ("a", "B>A")]) == (2 + 1 + 0 - 1) / 4


def test_a_judge_that_prefers_the_first_place_says_nothing() -> None:
    assert mean_gap([("a", "A>>B"), ("b", "A>>B")]) == 0


@pytest.mark.parametrize("judgements", [[], [("a", "A is better")], [("first", "A>B")]])
def test_judgements_that_say_nothing_are_errors(judgements: list[tuple[str, str]]) -> None:
    with pytest.raises(DataError):
        mean_gap(judgements)  # type: ignore[arg-type]


def test_balanced_lengths_say_nothing_about_preference() -> None:
    """Chosen texts are longer in 80 % of the pairs; after it in half of them, and by as much."""
    rng = random.Random(0)
    differences = [rng.randint(1, 300) if rng.random() < 0.8 else -rng.randint(1, 300) for _ in range(4_000)]
    differences += [0] * 10
    kept = balanced(differences, random.Random(1))
    found = [differences[i] for i in kept]
    assert kept == sorted(set(kept))
    assert sum(d > 0 for d in found) == sum(d < 0 for d in found) > 700
    assert found.count(0) == 10
    assert abs(sum(found) / len(found)) < 3 < sum(differences) / len(differences)


def test_pairs_of_one_side_alone_cannot_be_balanced() -> None:
    assert balanced([5, 6, 7], random.Random(0)) == []
    assert balanced([5, -6, 100], random.Random(0)) == [0, 1]
