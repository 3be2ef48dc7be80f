"""Stages of the pipeline's tests: they only write files, and can be slow, continue, fail, or be killed."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from aha.config import Frozen
from aha.errors import DataError
from aha.records import StageResult
from aha.stages.context import Context
from aha.util.files import read_json, write_json_atomic


class Settings(Frozen):
    """``end`` says how the stage ends: done, error, crash, killed, full, or crash once and then done."""

    steps: int = 5
    seconds: float = 0.0
    end: str = "done"


def run(settings: Settings, inputs: Mapping[str, Path], context: Context) -> StageResult:
    """A chain of hashes over steps, seed and the results of the inputs: it shows any step lost or done twice."""
    print(f"{context.name} says hello with hash {hash('hello')}")
    (context.out / "pid").write_text(str(os.getpid()))
    (context.out / "threads").write_text(str(torch.get_num_threads()))
    state = context.out / "state.json"
    start = {"step": 0, "value": f"{context.seed}"}
    for edge in sorted(inputs):
        start["value"] += read_json(inputs[edge] / "result.json")["metrics"]["value"]
    saved = read_json(state) if state.exists() else start
    step, value = saved["step"], saved["value"]
    context.rewind_metrics(step)
    while step < settings.steps:
        time.sleep(settings.seconds)
        step += 1
        value = hashlib.sha256(f"{value}/{step}".encode()).hexdigest()
        context.log({"step": step, "value": value})
        if step % 3 == 0 or context.save_due():
            write_json_atomic(state, {"step": step, "value": value})
        context.progress(step, settings.steps, loss=1 / step)
    _end(settings.end, context.out.parent / f"{context.name} has crashed")
    return StageResult({"value": value})


def _end(how: str, has_crashed: Path) -> None:
    if how == "error":
        raise DataError("the data is no good")
    if how == "crash" or how == "crash once" and not has_crashed.exists():
        has_crashed.touch()
        raise ZeroDivisionError("by zero")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "full":
        raise OSError(28, "No space left on device")
