"""Every strategy: what it prefers, by hand or by its chances; what it does when that is not enough."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable

import pytest

from aha.data.choose import (
    by_failure,
    by_uncertainty,
    difficulty,
    in_window,
    nearest_difficulty,
    next_target,
    not_mastered,
)
from aha.errors import DataError
from aha.records import Problem


def problems(count: int) -> list[Problem]:
    return [Problem(f"p{i}", "x", "1", "number", meta={"level": 1 + i % 5}) for i in range(count)]


def ids(chosen: list[Problem]) -> list[str]:
    return [problem.id for problem in chosen]


TEN = problems(10)
SHARES = (0.0, 0.1, 0.2, 0.5, 0.79, 0.8, 1.0, 1.0)  # p8, p9: new
RATES = {problem.key: share for problem, share in zip(TEN, SHARES, strict=False)}


def test_the_nearest_difficulties_are_asked_and_chance_decides_between_equals() -> None:
    seen = Counter[int]()
    for seed in range(300):
        chosen = nearest_difficulty(TEN, 3, random.Random(seed), target=2.1)
        assert sorted(p.meta["level"] for p in chosen)[:1] in ([2], [1]) and len(set(ids(chosen))) == 3
        seen.update(p.meta["level"] for p in chosen)
    assert seen == {2: 600, 3: 300}  # both of level 2, and one of the two of level 3
    last = {nearest_difficulty(TEN, 3, random.Random(seed), target=2.1)[2].id for seed in range(50)}
    assert last == {"p2", "p7"}


def test_the_target_moves_by_adarfts_rule() -> None:
    """eta 50, alpha 2, beta 0.5: 50 tanh(2 * 0.25) = 23.1058579."""
    paper = {"eta": 50.0, "alpha": 2.0, "beta": 0.5, "low": 0.0, "high": 100.0}
    assert next_target(40.0, 0.75, **paper) == pytest.approx(40 + 50 * math.tanh(0.5))
    assert next_target(40.0, 0.75, **paper) == pytest.approx(63.1058579)
    assert next_target(40.0, 0.5, **paper) == 40.0
    assert next_target(40.0, 0.25, **paper) == pytest.approx(16.8941421)
    assert next_target(90.0, 1.0, **paper) == 100.0
    assert next_target(10.0, 0.0, **paper) == 0.0


def test_a_difficulty_may_be_a_share_and_goes_before_the_level() -> None:
    assert difficulty(Problem("a", "x", "1", "number", meta={"difficulty": 0.25, "level": 3})) == 0.25
    for meta in ({}, {"level": "hard"}, {"level": True}, {"difficulty": math.nan}):
        with pytest.raises(DataError, match="'a'"):
            difficulty(Problem("a", "x", "1", "number", meta=meta))


def window(count: int, seed: int = 0, **changed: float) -> list[str]:
    settings = {"low": 0.2, "high": 0.8, "easy_share": 0.0, **changed}
    return ids(in_window(TEN, RATES, count, random.Random(seed), **settings))


def test_the_window_has_its_lower_end_and_what_was_never_asked() -> None:
    assert set(window(5)) == {"p2", "p3", "p4", "p8", "p9"}
    assert {frozenset(window(2, seed)) for seed in range(200)} == {
        frozenset(pair) for pair in itertools.combinations(("p2", "p3", "p4", "p8", "p9"), 2)
    }


def test_a_share_is_drawn_from_the_easy_pool() -> None:
    for seed in range(20):
        chosen = window(5, seed, easy_share=0.4)
        assert len(set(chosen) & {"p5", "p6", "p7"}) == 2 and len(set(chosen)) == 5
    assert set(window(5, easy_share=0.05)) & {"p5", "p6", "p7"} == set()  # 0.25 problems


def test_each_part_fills_up_what_another_lacks_and_the_hopeless_come_last() -> None:
    assert set(window(8)) == {"p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9"}
    assert len(set(window(10))) == 10
    none_easy = in_window(TEN[:5], {"p0/en": 0.5}, 5, random.Random(0), low=0.0, high=1.0, easy_share=0.5)
    assert len(set(ids(none_easy))) == 5


def test_history_drops_the_always_right_and_keeps_the_always_wrong() -> None:
    for seed in range(20):
        assert set(ids(not_mastered(TEN, RATES, 8, random.Random(seed)))) == {f"p{i}" for i in (0, 1, 2, 3, 4, 5, 8, 9)}
    assert len(not_mastered(TEN, RATES, 10, random.Random(0))) == 10


def test_failure_asks_in_proportion_to_what_fails() -> None:
    rates = {"p0/en": 0.0, "p1/en": 0.5, "p2/en": 0.9, "p3/en": 1.0}
    rng = random.Random(0)
    counts = Counter(by_failure(problems(5), rates, 1, rng)[0].id for _ in range(10_000))
    for name, share in {"p0": 1 / 2.6, "p1": 0.5 / 2.6, "p2": 0.1 / 2.6, "p4": 1 / 2.6}.items():
        assert counts[name] / 10_000 == pytest.approx(share, abs=0.02)
    assert counts["p3"] == 0


def test_uncertainty_asks_in_proportion_to_the_expected_deviation() -> None:
    rates = {"p0/en": 0.0, "p1/en": 0.5, "p2/en": 0.9, "p3/en": 1.0}
    rng = random.Random(0)
    counts = Counter(by_uncertainty(problems(5), rates, 1, rng)[0].id for _ in range(10_000))
    for name, share in {"p1": 0.5 / 1.3, "p2": 0.3 / 1.3, "p4": 0.5 / 1.3}.items():
        assert counts[name] / 10_000 == pytest.approx(share, abs=0.02)
    assert counts["p0"] == counts["p3"] == 0


Strategy = Callable[[list[Problem], int, random.Random], list[Problem]]
STRATEGIES: list[Strategy] = [
    lambda p, n, rng: nearest_difficulty(p, n, rng, target=3.0),
    lambda p, n, rng: in_window(p, RATES, n, rng, low=0.2, high=0.8, easy_share=0.1),
    lambda p, n, rng: not_mastered(p, RATES, n, rng),
    lambda p, n, rng: by_failure(p, RATES, n, rng),
    lambda p, n, rng: by_uncertainty(p, RATES, n, rng),
]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_choice_is_the_generators_and_too_few_is_an_error(strategy: Strategy) -> None:
    assert strategy(TEN, 4, random.Random(3)) == strategy(TEN, 4, random.Random(3))
    assert len({frozenset(ids(strategy(TEN, 4, random.Random(seed)))) for seed in range(30)}) > 1
    assert sorted(ids(strategy(TEN, 10, random.Random(0)))) == sorted(ids(TEN))
    with pytest.raises(DataError, match="asks 11 different problems, there are only 10"):
        strategy(TEN, 11, random.Random(0))
