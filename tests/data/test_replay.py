"""Hard problems wait, are asked again and leave when they were solved; by hand."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import pytest

from aha.data.replay import ReplayBuffer
from aha.errors import CheckpointError, SettingError


def test_hard_ones_come_solved_ones_leave_and_the_oldest_makes_room() -> None:
    buffer = ReplayBuffer(capacity=3)
    buffer.record([("a", 0, 4), ("b", 1, 4), ("c", 0, 4), ("d", 0, 0)])
    assert buffer.waiting == ["a", "c"]
    buffer.record([("a", 0, 4), ("e", 0, 4)])
    assert buffer.waiting == ["c", "a", "e"]
    buffer.record([("f", 0, 4)])
    assert buffer.waiting == ["a", "e", "f"]
    buffer.record([("e", 1, 4), ("a", 0, 0)])
    assert buffer.waiting == ["a", "f"]


def test_hard_may_be_more_than_hopeless() -> None:
    buffer = ReplayBuffer(hard=0.25)
    buffer.record([("a", 1, 4), ("b", 2, 4)])
    assert buffer.waiting == ["a"]


def test_a_quarter_of_the_step_is_asked_again_by_chance() -> None:
    buffer = ReplayBuffer(waiting=[f"p{i}" for i in range(10)])
    counts = Counter[str]()
    for seed in range(500):
        chosen = buffer.choose(16, random.Random(seed))
        assert len(set(chosen)) == 4
        counts.update(chosen)
    assert all(count == pytest.approx(200, abs=50) for count in counts.values()) and len(counts) == 10
    assert ReplayBuffer(waiting=["a"]).choose(16, random.Random(0)) == ["a"]
    assert ReplayBuffer().choose(16, random.Random(0)) == []
    assert ReplayBuffer(share=0.0, waiting=["a"]).choose(16, random.Random(0)) == []
    assert len(buffer.waiting) == 10


def test_it_continues_from_json() -> None:
    buffer = ReplayBuffer(capacity=4)
    for step in range(20):
        other = ReplayBuffer.from_json(json.loads(json.dumps(buffer.to_json())), capacity=4)
        assert other == buffer and other.choose(8, random.Random(step)) == buffer.choose(8, random.Random(step))
        buffer.record([(f"p{random.Random(step).randrange(9)}", step % 3 // 2, 4)])


def test_a_smaller_buffer_keeps_those_that_came_last() -> None:
    assert ReplayBuffer.from_json({"waiting": ["a", "b", "c"]}, capacity=2).waiting == ["b", "c"]


@pytest.mark.parametrize("record", [{}, {"waiting": "abc"}, {"waiting": [1]}, {"waiting": ["a", "a"]}])
def test_a_record_that_does_not_fit_is_refused(record: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="replay buffer"):
        ReplayBuffer.from_json(record)


@pytest.mark.parametrize("settings", [{"capacity": 0}, {"share": 1.1}, {"share": -0.1}, {"hard": 1.0}])
def test_settings_that_cannot_be_are_named(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="replay buffer"):
        ReplayBuffer(**settings)
