"""Repetition: by hand, against the slow and obvious search, and in linear time."""

from __future__ import annotations

import itertools
import random
import time

import pytest

from aha.reward.repetition import Loop, ngram_penalty, repeated_ngrams, repetition_rate, tail_loop


@pytest.mark.parametrize(
    ("text", "penalty"),
    [
        ("", 0.0), ("a b", 0.0), ("a b c", 0.0), ("a b c d e", 0.0),
        ("a a a a", -0.5),  # two 3-grams, one different
        ("wait no wait no wait no", -0.5),  # four, two different
        ("So it is so IT is", -0.25),  # four, three different
        ("先算三乘四先算三乘四", 0.0),  # one word
    ],
)  # fmt: skip
def test_the_ngram_penalty_by_hand(text: str, penalty: float) -> None:
    assert ngram_penalty(text) == penalty


def test_ngrams_of_other_sizes_and_of_token_ids() -> None:
    assert ngram_penalty("a a a a", n=1, max_penalty=-2.0) == -1.5
    assert repeated_ngrams([5, 6, 5, 6, 5], n=2) == 0.5
    assert repeated_ngrams("先算三乘四先算三乘四", n=3) == pytest.approx(3 / 8)


def test_a_penalty_is_not_pay() -> None:
    with pytest.raises(ValueError, match="pay"):
        ngram_penalty("a a a", max_penalty=0.5)
    with pytest.raises(ValueError, match="0-grams"):
        repeated_ngrams([1], n=0)


@pytest.mark.parametrize(
    ("ids", "loop"),
    [
        ([], None), ([1], None), ([1, 1], None), ([1, 2, 3], None), ([9, 1, 2, 1, 2], None),
        ([7, 7, 7], Loop(1, 3)),
        ([9, 1, 2, 1, 2, 1, 2], Loop(2, 6)),
        ([9, 2, 1, 2, 1, 2, 1, 2], Loop(2, 7)),  # the round before the first is cut, and counts
        ([9, 9, 9, 1], None),  # a loop that was left
        ([1, 2, 2, 2, 1, 2, 2, 2, 1, 2, 2, 2], Loop(4, 12)),  # not the short loop of 2 at its end
        ([1, 1, 1, 1, 1, 1], Loop(1, 6)),  # not period 2
    ],
)  # fmt: skip
def test_the_loop_at_the_end_by_hand(ids: list[int], loop: Loop | None) -> None:
    assert tail_loop(ids) == loop
    assert repetition_rate(ids) == (loop.length / len(ids) if loop else 0.0)


def slow(ids: list[int], min_rounds: int) -> Loop | None:
    best: Loop | None = None
    for period in range(1, len(ids) // min_rounds + 1):
        length = period
        while length < len(ids) and ids[-length - 1] == ids[-length - 1 + period]:
            length += 1
        if length >= min_rounds * period and (best is None or length > best.length):
            best = Loop(period, length)
    return best


def test_it_is_what_the_slow_search_finds() -> None:
    for size in range(9):
        for ids in itertools.product((1, 2), repeat=size):
            for rounds in (2, 3):
                assert tail_loop(ids, min_rounds=rounds) == slow(list(ids), rounds), ids
    rng = random.Random(0)
    for _ in range(300):
        block = [rng.randrange(4) for _ in range(rng.randint(1, 9))]
        before, rest = [rng.randrange(4) for _ in range(rng.randrange(30))], block[: rng.randrange(9)]
        ids = before + block * rng.randint(1, 5) + rest
        assert tail_loop(ids) == slow(ids, 3)


def test_one_round_is_no_loop() -> None:
    with pytest.raises(ValueError, match="no loop"):
        tail_loop([1, 2], min_rounds=1)


@pytest.mark.parametrize("unit", [[1], [1, 2], [1] * 499 + [2]])
def test_a_long_completion_takes_no_long_time(unit: list[int]) -> None:
    """The slow search needs some 10^10 comparisons here."""
    ids = [3] + unit * (200_000 // len(unit))
    started = time.perf_counter()
    assert repetition_rate(ids) > 0.99
    assert repeated_ngrams(ids) > 0.99
    assert time.perf_counter() - started < 20
