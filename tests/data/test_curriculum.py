"""Problems are chosen by seed; a curriculum asks easy levels first and all of them from half time on."""

from __future__ import annotations

import random

import pytest

from aha.data.curriculum import choose_problems
from aha.errors import DataError
from aha.records import Problem

PROBLEMS = [Problem(f"p/{i}", "x", "1", "number", meta={"level": 1 + i % 3}) for i in range(60)]


def levels(progress: float) -> set[int]:
    chosen = choose_problems(PROBLEMS, 20, random.Random(0), progress=progress, curriculum=True)
    return {p.meta["level"] for p in chosen}


def test_the_choice_is_the_seeds_and_has_no_problem_twice() -> None:
    def choose(seed: int) -> list[Problem]:
        return choose_problems(PROBLEMS, 20, random.Random(seed), progress=0.3, curriculum=False)

    assert choose(4) == choose(4) != choose(5)
    assert len({p.id for p in choose(4)}) == 20


@pytest.mark.parametrize(
    ("progress", "allowed"),
    [(0.0, {1}), (0.24, {1}), (0.25, {1, 2}), (0.49, {1, 2}), (0.5, {1, 2, 3}), (0.9, {1, 2, 3}), (1.0, {1, 2, 3})],
)
def test_levels_open_evenly_over_the_first_half(progress: float, allowed: set[int]) -> None:
    assert levels(progress) == allowed


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
