"""Rejection sampling by itself, outside a run: one folder, which a command run again goes on with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aha.config import decisive
from aha.data.dataset import Progress
from aha.errors import UsageError
from aha.stages import reject
from aha.stages.context import Context
from aha.stages.paid import JUDGEMENTS, SAMPLES
from aha.stages.sampling import read_answers
from aha.util.files import read_json, write_json_atomic


def teach(
    settings: reject.Settings, model: Path | None, out: Path, seed: int, progress: Progress
) -> Mapping[str, Any]:
    """The stage's result in the folder ``out``. Until it is done it is ``.NAME.partial`` beside, with all that was
    sampled; ``UsageError`` where that was sampled otherwise: it is not thrown away, for it may have been paid. Speed,
    patience and prices may differ from one try to the next."""
    plan: dict[str, Any] = {"settings": decisive(settings), "model": str(model), "seed": seed}
    if out.exists():
        if (out / "plan.json").is_file() and read_json(out / "plan.json") == plan:
            return dict(read_json(out / "result.json"))
        raise UsageError(f"{out} exists and was not made by this command: choose another")
    partial = out.with_name(f".{out.name}.partial")
    sampled = any(read_answers(partial / name) for name in (SAMPLES, JUDGEMENTS))
    before = read_json(partial / "plan.json") if sampled and (partial / "plan.json").is_file() else plan
    if before != plan:
        was, now = ({**made["settings"], "model": made["model"], "seed": made["seed"]} for made in (before, plan))
        none = object()
        other = next(key for key in sorted({*was, *now}) if was.get(key, none) != now.get(key, none))
        raise UsageError(
            f"{partial} holds samples that were asked for otherwise: {other} was {was.get(other)!r:.80}, now it is "
            f"{now.get(other)!r:.80}: choose another --out, or remove it with all that was sampled"
        )
    write_json_atomic(partial / "plan.json", plan)
    inputs = {} if model is None else {"policy": model}
    context = _Counting(partial, progress, seed)
    metrics = reject.run(settings, inputs, context).metrics
    write_json_atomic(partial / "result.json", metrics)
    os.replace(partial, out)
    return metrics


class _Counting(Context):
    """Shows how many samples are there instead of telling a runner."""

    def __init__(self, out: Path, progress: Progress, seed: int) -> None:
        super().__init__(out, name="reject", seed=seed, run_seed=seed)
        self._show = progress

    def progress(self, step: int, total: int, **fields: float) -> None:
        self._show("sampling", step, total)
