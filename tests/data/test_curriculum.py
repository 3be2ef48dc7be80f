"""Problems are chosen by seed; a curriculum asks easy levels more often until half time."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from aha.data.curriculum import choose_problems
from aha.errors import DataError
from aha.records import Problem

PROBLEMS = [Problem(f"p/{i}", "x", "1", "number", meta={"level": 1 + i % 3}) for i in range(60)]


def test_the_choice_is_the_seeds_and_has_no_problem_twice() -> None:
    def choose(seed: int) -> list[Problem]:
        return choose_problems(PROBLEMS, 20, random.Random(seed), progress=0.3, curriculum=False)

    assert choose(4) == choose(4) != choose(5)
    assert len({p.id for p in choose(4)}) == 20


@pytest.mark.parametrize(
    ("progress", "shares"), [(0.0, (4, 2, 1)), (0.25, (47, 41, 52)), (0.5, (1, 3, 6)), (0.9, (1, 3, 6))]
)
def test_easy_levels_come_more_often_until_half_time(progress: float, shares: tuple[float, ...]) -> None:
    """Levels of 100, 300 and 600 problems: halving shares at the start, their own from half time on."""
    sizes = {1: 100, 2: 300, 3: 600}
    problems = [
        Problem(f"{lv}/{i}", "x", "1", "number", meta={"level": lv}) for lv, n in sizes.items() for i in range(n)
    ]
    rng, counts = random.Random(0), Counter[int]()
    for _ in range(2_000):
        counts.update(p.meta["level"] for p in choose_problems(problems, 4, rng, progress=progress, curriculum=True))
    for level, share in enumerate(shares, 1):
        expected = share / sum(shares)
        assert counts[level] / 8_000 == pytest.approx(expected, abs=4 * (0.25 / 8_000) ** 0.5)


def test_a_curriculum_repeats_no_problem_in_a_step() -> None:
    chosen = choose_problems(PROBLEMS, 60, random.Random(0), progress=0.1, curriculum=True)
    assert {p.id for p in chosen} == {p.id for p in PROBLEMS}


def test_without_a_curriculum_everything_is_asked_from_the_start() -> None:
    chosen = choose_problems(PROBLEMS, 60, random.Random(0), progress=0.0, curriculum=False)
    assert {p.id for p in chosen} == {p.id for p in PROBLEMS}


def test_problems_without_a_level_are_all_asked() -> None:
    plain = [Problem(str(i), "x", "1", "number") for i in range(5)]
    assert len(choose_problems(plain, 5, random.Random(0), progress=0.0, curriculum=True)) == 5
    with pytest.raises(DataError, match="asks 9 different problems, there are only 5"):
        choose_problems(plain, 9, random.Random(0), progress=0.0, curriculum=True)


def test_a_level_that_is_no_number_is_named() -> None:
    odd = [Problem("math/7", "x", "1", "number", meta={"level": "Level 3"})]
    with pytest.raises(DataError, match=r"math/7.*'Level 3'"):
        choose_problems(odd, 1, random.Random(0), progress=0.0, curriculum=True)
    assert choose_problems(odd, 1, random.Random(0), progress=0.0, curriculum=False) == odd
