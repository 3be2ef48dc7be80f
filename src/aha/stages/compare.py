"""Several ways to train, each over several seeds, against the model they all started from: one table with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aha.config import Frozen
from aha.errors import SettingError
from aha.evaluate.estimators import seeds_interval
from aha.records import StageResult
from aha.stages.context import Context
from aha.util.files import read_json

MEASURES = ("pass@1", "format", "length")


class Settings(Frozen):
    """``arms`` are names; the inputs of arm ``a`` are ``a/0``, ``a/1``, ...: the evaluations of its seeds."""

    arms: tuple[str, ...]


def run(settings: Settings, inputs: Mapping[str, Path], context: Context) -> StageResult:
    """``start`` is the evaluation of the model that all began with. Of each arm: its measures and its gain in pass@1,
    means over the seeds with a 95 % interval of Student's t."""
    start = _metrics(inputs["start"])
    rows: dict[str, Any] = {}
    for arm in settings.arms:
        found = [_metrics(inputs[edge]) for edge in inputs if edge.rpartition("/")[0] == arm]
        if not found:
            raise SettingError(f"arm {arm!r} has no input {arm}/0")
        measures = {name: [metrics[name]["value"] for metrics in found] for name in MEASURES}
        gains = [value - start["pass@1"]["value"] for value in measures["pass@1"]]
        rows[arm] = {
            "seeds": len(found),
            "gain": seeds_interval(gains).as_dict(),
            **{name: seeds_interval(values).as_dict() for name, values in measures.items()},
        }
    best = max(rows, key=lambda arm: rows[arm]["gain"]["value"])
    models = [_metrics(inputs[edge])["model"] for edge in inputs if "/" in edge]
    return StageResult({"start": start["pass@1"]["value"], "best": best, "arms": rows, "models": models})


def _metrics(folder: Path) -> Mapping[str, Any]:
    metrics: Mapping[str, Any] = read_json(folder / "result.json")["metrics"]
    if not math.isfinite(metrics["pass@1"]["value"]):
        raise SettingError(f"{folder} has no pass@1")
    return metrics
