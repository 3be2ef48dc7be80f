"""Every length reward against numbers worked out by hand, and the traps."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from aha.errors import SettingError
from aha.reward.length import cosine, efficient, kimi_k15, l1_exact, l1_max, soft_overlong


@pytest.mark.parametrize(
    ("length", "value"),
    [
        (0, 0.0), (16_384, 0.0), (17_408, -0.25), (18_432, -0.5), (20_479, -4_095 / 4_096), (20_480, -1.0),
        (20_481, -1.0), (99_999, -1.0),
    ],
)  # fmt: skip
def test_soft_overlong_has_the_three_pieces_of_dapo(length: int, value: float) -> None:
    assert soft_overlong(length, max_length=20_480, cache=4_096) == value


def test_the_soft_zone_may_be_all_there_is() -> None:
    assert soft_overlong(5, max_length=10, cache=10) == -0.5


def test_kimi_by_hand() -> None:
    """Lengths 100, 200, 500: lambdas 0.5, 0.25, -0.5; a wrong answer keeps only what is below 0."""
    assert kimi_k15([100, 200, 500], [True, True, True]) == [0.5, 0.25, -0.5]
    assert kimi_k15([100, 200, 500], [False, False, False]) == [0.0, 0.0, -0.5]
    assert kimi_k15([500, 100, 200], [False, True, False]) == [-0.5, 0.5, 0.0]


def test_kimi_says_nothing_of_a_group_of_one_length() -> None:
    assert kimi_k15([7, 7, 7], [True, False, True]) == [0.0, 0.0, 0.0]
    assert kimi_k15([7], [True]) == [0.0]


@pytest.mark.parametrize(
    ("length", "right", "value"),
    [
        (0, True, 1.0), (500, True, 0.75), (1_000, True, 0.5), (0, False, -1.0), (500, False, -0.75),
        (1_000, False, -0.5), (250, True, 0.75 + 0.25 * math.sqrt(0.5)),
    ],
)  # fmt: skip
def test_cosine_by_hand(length: int, right: bool, value: float) -> None:
    assert cosine(length, right, max_length=1_000) == pytest.approx(value, abs=1e-12)


def test_cosine_does_not_turn_back_beyond_the_cap() -> None:
    """Unclipped, t = 2 would give cos(2 pi) = 1: the full reward of the shortest answer."""
    for right, value in ((True, 0.5), (False, -0.5)):
        assert [cosine(n, right, max_length=1_000) for n in (1_000, 1_500, 2_000, 9_000)] == pytest.approx([value] * 4)


def test_cosine_falls_for_right_and_rises_for_wrong_answers_all_the_way() -> None:
    right = [cosine(n, True, max_length=64) for n in range(200)]
    wrong = [cosine(n, False, max_length=64) for n in range(200)]
    assert right == sorted(right, reverse=True) and wrong == sorted(wrong)
    assert min(right) > max(wrong)


def test_cosine_exceeds_at_the_cap_whatever_the_verdict() -> None:
    paper = {"right_range": (2.0, 1.0), "wrong_range": (-10.0, 0.0)}
    assert cosine(1_000, True, max_length=1_000, exceed=-10.0, **paper) == -10.0
    assert cosine(2_000, False, max_length=1_000, exceed=-10.0, **paper) == -10.0
    assert cosine(500, True, max_length=1_000, exceed=-10.0, **paper) == pytest.approx(1.5)
    assert cosine(500, False, max_length=1_000, exceed=-10.0, **paper) == pytest.approx(-5.0)


def test_l1_exact_by_hand() -> None:
    assert l1_exact(1_000, True, target=1_000) == 1.0
    assert l1_exact(2_000, True, target=1_000) == pytest.approx(0.7)
    assert l1_exact(0, True, target=1_000) == pytest.approx(0.7)
    assert l1_exact(2_000, False, target=1_000) == pytest.approx(-0.3)


def test_l1_max_by_hand() -> None:
    assert l1_max(1_000, True, target=1_000) == 0.5
    assert l1_max(0, True, target=1_000) == pytest.approx(0.8)
    assert l1_max(2_000, True, target=1_000) == pytest.approx(0.2)
    assert l1_max(9_000, True, target=1_000) == 0.0
    assert l1_max(0, True, target=4_000) == 1.0
    assert l1_max(0, False, target=1_000) == 0.0


def test_efficient_by_hand() -> None:
    """Right lengths 100 and 300: mean 200, deviation 100, so z is -1 and +1; the wrong 900 is in neither."""
    low, high = 1 / (1 + math.e), math.e / (1 + math.e)
    assert efficient([100, 900, 300], [True, False, True], alpha=0.4) == pytest.approx(
        [1 - 0.4 * low, 0.0, 1 - 0.4 * high]
    )


def test_efficient_with_one_length_or_none_right() -> None:
    assert efficient([50, 900], [True, False], alpha=0.2) == pytest.approx([0.9, 0.0])
    assert efficient([50, 50], [True, True], alpha=0.2) == pytest.approx([0.9, 0.9])
    assert efficient([50, 60], [False, False], alpha=0.2) == [0.0, 0.0]


def test_efficient_keeps_every_right_answer_above_every_wrong_one() -> None:
    lengths = [1] * 999 + [10**9]
    rewards = efficient(lengths, [True] * 1_000, alpha=0.9)
    assert rewards[-1] == pytest.approx(0.1) and min(rewards) > 0.0


def test_a_wrong_answer_of_any_length_overflows_nothing() -> None:
    assert efficient([10, 11, 0, 10**9], [True, True, False, False], alpha=0.5)[2:] == [0.0, 0.0]


@pytest.mark.parametrize(
    "call",
    [
        lambda: soft_overlong(5, max_length=10, cache=0),
        lambda: soft_overlong(5, max_length=10, cache=11),
        lambda: cosine(5, True, max_length=0),
        lambda: l1_exact(5, True, target=0),
        lambda: l1_max(5, True, target=10, alpha=-1.0),
        lambda: efficient([5], [True], alpha=1.0),
        lambda: efficient([5], [True], alpha=-0.1),
    ],
)
def test_impossible_settings_are_named(call: Callable[[], object]) -> None:
    with pytest.raises(SettingError):
        call()


@pytest.mark.parametrize("lengths", [[], [1, 2], [-1]])
def test_a_group_that_does_not_fit_is_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError):
        kimi_k15(lengths, [True])
    with pytest.raises(ValueError):
        efficient(lengths, [True], alpha=0.1)
