"""The side of a stage that faces its runner."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from aha.stages.context import Context, Interrupted
from aha.util.files import read_jsonl


def make(out: Path, **options: Any) -> Context:
    return Context(out, name="s", seed=1, run_seed=0, **options)


def test_alone_it_neither_stops_nor_saves_early(tmp_path: Path) -> None:
    context = make(tmp_path)
    for step in range(3):
        assert not context.save_due()
        context.progress(step, 3, loss=0.5)


def test_state_is_due_by_time(tmp_path: Path) -> None:
    assert make(tmp_path, state_every=0.0).save_due()


def test_metrics_rewind_to_the_step_that_is_continued_and_drop_a_torn_line(tmp_path: Path) -> None:
    context = make(tmp_path)
    context.rewind_metrics(0)
    for step in range(1, 6):
        context.log({"step": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    context.rewind_metrics(3)
    context.log({"step": 4})
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]


def test_a_stage_that_saves_is_interrupted_only_after_it_could_save(tmp_path: Path) -> None:
    stop = threading.Event()
    context = make(tmp_path, stop=stop)
    assert not context.save_due()
    stop.set()  # between save_due and progress of one step
    context.progress(1, 9)
    assert context.stop_requested() and context.save_due()
    with pytest.raises(Interrupted):
        context.progress(2, 9)


def test_a_stage_without_state_is_interrupted_at_once(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        make(tmp_path, stop=stop).progress(1, 9)


def test_a_stage_that_no_longer_asks_to_save_is_interrupted_too(tmp_path: Path) -> None:
    stop = threading.Event()
    context = make(tmp_path, stop=stop)
    context.save_due()
    stop.set()
    context.progress(1, 9)
    with pytest.raises(Interrupted):
        context.progress(2, 9)


def test_messages_are_few_but_the_last_is_always_sent(tmp_path: Path) -> None:
    sent: list[tuple[Any, ...]] = []
    context = make(tmp_path, send=sent.append, progress_every=60.0)
    for step in range(1, 1001):
        context.progress(step, 1000, loss=1 / step)
    assert sent == [("progress", 1, 1000, {"loss": 1.0}), ("progress", 1000, 1000, {"loss": 0.001})]
