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
    """``start`` is the evaluation of the model that all began with, other inputs without a number those of models to
    compare with, such as a teacher. Of each arm: its measures and its gain in pass@1, means over the seeds with a 95 %
    interval of Student's t, and pass@1 of every seed; what the best arm is over each other one, seed by seed."""
    start = _metrics(inputs["start"])
    beside = {edge: _metrics(folder) for edge, folder in inputs.items() if "/" not in edge}
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
            "values": measures["pass@1"],
            **{
                name: seeds_interval(values, minimum=0.0, maximum=math.inf if name == "length" else 1.0).as_dict()
                for name, values in measures.items()
            },
        }
    best = max(rows, key=lambda arm: rows[arm]["gain"]["value"])
    over = {
        arm: seeds_interval([a - b for a, b in zip(rows[best]["values"], row["values"], strict=True)]).as_dict()
        for arm, row in rows.items()
        if arm != best and row["seeds"] == rows[best]["seeds"]
    }
    models = {metrics["model"]: {name: metrics[name] for name in MEASURES} for metrics in beside.values()}
    return StageResult(
        {"start": start["pass@1"]["value"], "best": best, "best_over": over, "beside": models, "arms": rows}
    )


def _metrics(folder: Path) -> Mapping[str, Any]:
    metrics: Mapping[str, Any] = read_json(folder / "result.json")["metrics"]
    if not math.isfinite(metrics["pass@1"]["value"]):
        raise SettingError(f"{folder} has no pass@1")
    return metrics
