"""Rejection sampling by itself, outside a run: one folder, which a command run again goes on with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aha.config import decisive
from aha.data.card import source_record
from aha.data.dataset import Progress
from aha.data.files import find_files
from aha.errors import UsageError
from aha.model.config_file import model_folder
from aha.stages import reject
from aha.stages.context import Context
from aha.stages.paid import JUDGEMENTS, SAMPLES
from aha.stages.sampling import read_answers
from aha.util.files import read_json, sha256_file, write_json_atomic


def teach(
    settings: reject.Settings, model: Path | None, out: Path, seed: int, progress: Progress
) -> Mapping[str, Any]:
    """The stage's result in the folder ``out``. Until it is done it is ``.NAME.partial`` beside, with all that was
    sampled; ``UsageError`` where that was asked of another teacher, or otherwise: it is not thrown away, for it may
    have been paid. All else may differ from one try to the next: speed, patience, prices, more samples or problems, a
    judge, and what is kept."""
    plan: dict[str, Any] = {
        "settings": decisive(settings),
        "model": str(model),
        "weights": _weights(model),
        "sources": [source_record(file) for file in find_files([settings.source])] if settings.source else [],
        "seed": seed,
    }
    if out.exists():
        if not (out / "plan.json").is_file():
            raise UsageError(f"{out} exists and was not made by this command: choose another")
        if other := _difference(read_json(out / "plan.json"), plan):
            raise UsageError(f"{out} exists and was made otherwise: {other}: choose another --out")
        return dict(read_json(out / "result.json"))
    partial = out.with_name(f".{out.name}.partial")
    sampled = any(read_answers(partial / name) for name in (SAMPLES, JUDGEMENTS))
    before = read_json(partial / "plan.json") if sampled and (partial / "plan.json").is_file() else plan
    if other := _difference(*(_asking(made) for made in (before, plan))):
        raise UsageError(
            f"{partial} holds samples that were asked for otherwise: {other}: choose another --out, or remove it with "
            "all that was sampled"
        )
    write_json_atomic(partial / "plan.json", plan)
    inputs = {} if model is None else {"policy": model}
    context = _Counting(partial, progress, seed)
    metrics = reject.run(settings, inputs, context).metrics
    write_json_atomic(partial / "result.json", metrics)
    os.replace(partial, out)
    return metrics


def _weights(model: Path | None) -> dict[str, str]:
    files = sorted(model_folder(model).glob("*.safetensors")) if model else []
    return {file.name: sha256_file(file) for file in files}


def _asking(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Of a plan what decides what a teacher says. Samples know their question and number themselves."""
    settings = {name: plan["settings"].get(name) for name in ("endpoint", "max_new_tokens", "temperature", "top_p")}
    return {"settings": settings} | {name: plan[name] for name in ("model", "weights", "seed") if name in plan}


def _difference(before: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """The first thing that is not as it was; empty where all is. What an earlier version did not write is as it was."""
    was, now = ({**made["settings"], **{k: v for k, v in made.items() if k != "settings"}} for made in (before, plan))
    other = next((key for key in was if was[key] != now.get(key)), None)
    return f"{other} was {was[other]!r:.80}, now it is {now.get(other)!r:.80}" if other else ""


class _Counting(Context):
    """Shows how many samples are there instead of telling a runner."""

    def __init__(self, out: Path, progress: Progress, seed: int) -> None:
        super().__init__(out, name="reject", seed=seed, run_seed=seed)
        self._show = progress

    def progress(self, step: int, total: int, **fields: float) -> None:
        self._show("sampling", step, total)
