"""The pool counts, forgets as it is told, chooses by its strategy, and continues from plain JSON with the same bits."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from aha.config import override
from aha.data.curriculum import choose_problems
from aha.data.pool import Choice, ProblemPool
from aha.errors import CheckpointError, SettingError
from aha.records import Problem

PROBLEMS = [Problem(f"p{i}", "x", "1", "number", meta={"level": 1 + i % 4}) for i in range(40)]
STRATEGIES = ["uniform", "curriculum", "target", "window", "history", "failure", "uncertainty"]


def pool(strategy: str = "uniform", **settings: Any) -> ProblemPool:
    return ProblemPool.of(PROBLEMS, Choice(strategy=strategy, **settings))


@pytest.mark.parametrize(("decay", "rate"), [(0.0, 0.25), (0.5, 3 / 6), (1.0, 5 / 8)])
def test_older_answers_count_as_much_as_decay_says(decay: float, rate: float) -> None:
    """4 of 4 right, then 1 of 4: with a half, (2 + 1) of (2 + 4)."""
    counted = pool(decay=decay)
    counted.record([("p1", 4, 4)])
    assert counted.rates == {"p1": 1.0}
    counted.record([("p1", 1, 4)])
    assert counted.rates == {"p1": rate}


def test_a_group_that_nobody_could_judge_says_nothing() -> None:
    counted = pool()
    counted.record([("p1", 0, 0), ("p2", 0, 3)])
    assert counted.rates == {"p2": 0.0}
    with pytest.raises(ValueError, match="'p3': 5 of 4"):
        counted.record([("p3", 5, 4)])


@pytest.mark.parametrize("curriculum", [False, True])
def test_uniform_and_curriculum_choose_what_they_did_without_a_pool(curriculum: bool) -> None:
    made = pool("curriculum" if curriculum else "uniform").choose(8, random.Random(5), progress=0.2)
    assert made == choose_problems(PROBLEMS, 8, random.Random(5), progress=0.2, curriculum=curriculum)


def test_the_target_begins_easy_and_follows_the_share_of_right_answers() -> None:
    """Levels 1 to 4: a step of 0.5 * 3 * tanh(2 * 0.5) = 1.1424 when all is right."""
    adaptive = pool("target")
    assert {p.meta["level"] for p in adaptive.choose(8, random.Random(0), progress=0.0)} == {1}
    adaptive.record([("p0", 4, 4), ("p4", 4, 4)])
    assert adaptive.target == pytest.approx(2.142391)
    assert {p.meta["level"] for p in adaptive.choose(8, random.Random(0), progress=0.0)} == {2}
    adaptive.record([("p1", 2, 4), ("p5", 1, 2)])
    assert adaptive.target == pytest.approx(2.142391)
    adaptive.record([])
    assert adaptive.target == pytest.approx(2.142391)
    for _ in range(9):
        adaptive.record([("p1", 4, 4)])
    assert adaptive.target == 4.0


def test_what_is_mastered_is_asked_no_more() -> None:
    history = pool("history")
    for _ in range(5):
        chosen = history.choose(8, random.Random(0), progress=0.0)
        assert not set(history.rates) & {p.key for p in chosen}
        history.record([(p.key, 4, 4) for p in chosen])
    assert len(history.rates) == 40
    assert len(history.choose(8, random.Random(0), progress=0.0)) == 8  # all mastered: asked again


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_pool_continues_from_json_with_the_same_choices(strategy: str) -> None:
    straight = pool(strategy, decay=0.3)
    continued = pool(strategy, decay=0.3)
    for step in range(12):
        record = json.loads(json.dumps(continued.to_json()))
        continued = ProblemPool.from_json(PROBLEMS, continued.choice, record)
        chosen = [p.choose(6, random.Random(step), progress=step / 12) for p in (straight, continued)]
        assert chosen[0] == chosen[1]
        results = [(p.key, random.Random(p.id + str(step)).randint(0, 3), 3) for p in chosen[0]]
        straight.record(results)
        continued.record(results)
    assert straight == continued


def test_a_finished_pool_is_not_that_of_a_fresh_one() -> None:
    used = pool("target")
    used.record([("p0", 4, 4)])
    assert used.to_json() == {"answers": {"p0": [4.0, 4.0]}, "target": used.target}


@pytest.mark.parametrize(
    "record",
    [{}, {"answers": {}}, {"answers": {"p": [1]}, "target": 0}, {"answers": [], "target": 0},
     {"answers": {"p": [2, 1]}, "target": 0}, {"answers": {"p": [0, 0]}, "target": 0},
     {"answers": {"p": ["x", 1]}, "target": 0}],
)  # fmt: skip
def test_a_record_that_does_not_fit_is_refused(record: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="saved pool"):
        ProblemPool.from_json(PROBLEMS, Choice(), record)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(SettingError, match="window"):
        Choice(low=0.5, high=0.5)
    with pytest.raises(SettingError, match="strategy"):
        Choice(strategy="randomly")
    assert override(Choice(), "strategy", "window") == Choice(strategy="window")
