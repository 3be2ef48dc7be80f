"""The files of a run folder as one frozen record. Whatever is not there yet is empty; nothing is guessed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aha.errors import DataError
from aha.util.files import read_json

EVALUATION_SUFFIX = "_eval"
STALE = "stale"
"""Status of a stage whose settings, inputs or code have changed since: its figures are marked and count nowhere."""
_START_EDGES = {"init", "model", "start", "policy", "base"}


@dataclass(frozen=True)
class Measure:
    """An estimate with its 95 % interval; ``low`` and ``high`` are None where none was recorded."""

    value: float
    low: float | None = None
    high: float | None = None

    def overlaps(self, other: Measure) -> bool:
        """Whether the intervals overlap: the difference is within noise. Without intervals nothing overlaps."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return False
        return self.low <= other.high and other.low <= self.high

    def has_interval(self) -> bool:
        return self.low is not None and self.high is not None


@dataclass(frozen=True)
class Stage:
    """One stage as ``recipe.json``, ``ledger.json`` and its own folder describe it."""

    name: str
    kind: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, tuple[str, ...]]
    status: str
    seconds: float | None
    finished: Any
    started: Any
    metrics: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    folder: Path

    @property
    def done(self) -> bool:
        return self.status == "done"

    @property
    def stale(self) -> bool:
        return self.status == STALE


@dataclass(frozen=True)
class Run:
    """A run folder: its recipe's name and arguments, and its stages in recipe order."""

    folder: Path
    recipe: str
    version: str
    arguments: Mapping[str, Any]
    stages: tuple[Stage, ...]

    def stage(self, name: str) -> Stage | None:
        return next((stage for stage in self.stages if stage.name == name), None)

    def of_kind(self, kind: str) -> list[Stage]:
        return [stage for stage in self.stages if stage.kind == kind]

    def without_arms(self) -> Run:
        """This run without the stages that only serve the arms of a comparison (the inputs ``arm/0``, ``arm/1``, ... of
        a "compare" stage and what these were made from): their figures are shown together, not one by one."""
        users: dict[str, set[str]] = {stage.name: set() for stage in self.stages}
        for stage in self.stages:
            for edge, names in stage.inputs.items():
                own = stage.kind == "compare" and "/" not in edge
                for name in names:
                    users.setdefault(name, set()).add("" if own else stage.name)
        arms = {stage.name for stage in self.of_kind("compare")}
        others: list[Stage] = []
        for stage in reversed(self.stages):  # users stand after what they use
            if users[stage.name] and users[stage.name] <= arms:
                arms.add(stage.name)
            else:
                others.append(stage)
        return replace(self, stages=tuple(reversed(others)))

    def evaluations(self) -> dict[str, Stage]:
        """Model name -> its evaluation stage, in recipe order, finished or not."""
        return {evaluated_model(stage): stage for stage in self.of_kind("evaluate")}

    def producer(self, model: str) -> Stage | None:
        """The stage that made ``model``: the one of that name, or else what its evaluation reads as its model."""
        made = self.stage(model)
        if made is not None and made.kind != "evaluate":
            return made
        evaluation = self.evaluations().get(model)
        for name in evaluation.inputs.get("model", ()) if evaluation is not None else ():
            source = self.stage(name)
            if source is not None:
                return source
        return None

    def evaluated(self, stage: str) -> dict[str, str]:
        """Benchmark suffix -> evaluated model, for one stage: ``{"": "r1", "_own": "r1_own"}``."""
        found: dict[str, str] = {}
        for model in self.evaluations():
            producer = self.producer(model)
            if producer is not None and producer.name == stage:
                found.setdefault(model.removeprefix(stage), model)
        return found

    def starts_of(self, stage: Stage) -> dict[str, str]:
        """Benchmark suffix -> evaluated model that ``stage`` started from; empty if what it started from was not
        evaluated."""
        edges = sorted(stage.inputs, key=lambda edge: edge not in _START_EDGES)
        for edge in edges:
            for name in stage.inputs[edge]:
                found = self.evaluated(name)
                if found:
                    return found
        models = self.evaluations()
        for name in ("untrained", "base"):  # a published checkpoint need not be a stage of the recipe
            if name in models and name != stage.name:
                return {"": name}
        return {}

    def start_of(self, stage: Stage) -> str | None:
        """The evaluated model that ``stage`` started from, on the recipe's main benchmark."""
        return next(iter(self.starts_of(stage).values()), None)


def load_run(folder: Path) -> Run:
    """Reads what there is in ``folder``. Only ``recipe.json`` must exist: ``DataError`` says so when it does not."""
    folder = Path(folder)
    recipe = read_json(folder / "recipe.json")
    if not isinstance(recipe, Mapping) or not isinstance(recipe.get("stages"), list):
        raise DataError(f"{folder / 'recipe.json'}: expected an object with a list 'stages'; is this a run folder?")
    for entry in recipe["stages"]:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise DataError(f"{folder / 'recipe.json'}: expected stages with a 'name', found {entry!r}")
    ledger = _read_ledger(folder / "ledger.json")
    stages = tuple(_load_stage(folder, entry, ledger) for entry in recipe["stages"])
    return Run(
        folder=folder,
        recipe=str(recipe.get("recipe", "run")),
        version=str(recipe.get("version", "")),
        arguments=recipe.get("arguments") or {},
        stages=stages,
    )


def evaluated_model(stage: Stage) -> str:
    """``r1_zero_eval`` evaluates ``r1_zero``, whether it has run or not."""
    name = stage.name.removesuffix(EVALUATION_SUFFIX)
    return name if name != stage.name else str(stage.metrics.get("model") or name)


def finite(value: Any) -> float | None:
    """``value`` as a float, or None when it is missing, not a number, or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def parse_measure(entry: Any) -> Measure | None:
    """A measure from ``{"value", "low", "high"}`` or a bare number; None from anything else."""
    if isinstance(entry, Mapping):
        value = finite(entry.get("value"))
        return None if value is None else Measure(value, finite(entry.get("low")), finite(entry.get("high")))
    value = finite(entry)
    return None if value is None else Measure(value)


def vote_metric(entry: Mapping[str, Any]) -> str:
    """The vote with the most samples an evaluation took: ``cons@16``, or ``cons@4`` where it took four."""
    sizes = [int(key[5:]) for key in entry if key.startswith("cons@") and key[5:].isdigit()]
    return f"cons@{max(sizes, default=16)}"


def series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of ``key``, without the rows that lack it."""
    steps: list[float] = []
    values: list[float] = []
    for number, row in enumerate(rows):
        value = finite(row.get(key))
        if value is not None:
            step = finite(row.get("step"))
            steps.append(float(number) if step is None else step)
            values.append(value)
    return steps, values


def rolling_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean over the last ``window`` values at each place; shorter at the start, where fewer exist."""
    means: list[float] = []
    for end in range(1, len(values) + 1):
        part = values[max(0, end - window) : end]
        means.append(sum(part) / len(part))
    return means


def _read_ledger(path: Path) -> Mapping[str, Any] | None:
    """Stage -> its row; None where there is no ledger."""
    if not path.is_file():
        return None
    ledger = read_json(path)
    rows = ledger.get("stages") if isinstance(ledger, Mapping) else None
    if not isinstance(rows, Mapping) or not all(isinstance(row, Mapping) for row in rows.values()):
        raise DataError(f"{path}: not a ledger (expected an object 'stages' of objects); remove it to redo every stage")
    return rows


def _read_metrics(path: Path) -> Mapping[str, Any] | None:
    """The metrics of a result file; None where there is no file."""
    if not path.is_file():
        return None
    result = read_json(path)
    metrics = (result.get("metrics") or {}) if isinstance(result, Mapping) else None
    if not isinstance(metrics, Mapping):
        raise DataError(f"{path}: not a stage's result (expected an object 'metrics'); remove its folder to redo it")
    return metrics


def _load_stage(folder: Path, entry: Mapping[str, Any], rows: Mapping[str, Any] | None) -> Stage:
    name = entry["name"]
    known = rows is None or name in rows  # else begun anew or taken back: its old folder is not to be trusted
    found = _read_metrics(folder / name / "result.json") if known else None
    ledger = (rows or {}).get(name, {})
    status = str(ledger.get("status") or "missing")
    if found is not None and status in {"missing", "partial"}:  # the rename comes before the ledger
        status = "done"
    place = folder / name
    if not known or not place.is_dir():  # a stage works in a folder of its own and is renamed when it is done
        place = folder / f"{name}.partial"
    metrics = found or {}
    seconds = finite(ledger.get("seconds"))
    return Stage(
        name=name,
        kind=str(entry.get("kind", "stage")),
        settings=entry.get("settings") or {},
        inputs={str(edge): _names(source) for edge, source in (entry.get("inputs") or {}).items()},
        status=status,
        seconds=finite(metrics.get("seconds")) if seconds is None else seconds,
        finished=ledger.get("finished"),
        started=ledger.get("started"),
        metrics=metrics,
        rows=_last_of_each_step(read_rows(place / "metrics.jsonl")),
        folder=place,
    )


def _names(source: Any) -> tuple[str, ...]:
    return tuple(str(name) for name in source) if isinstance(source, list | tuple) else (str(source),)


def read_rows(path: Path) -> list[Mapping[str, Any]]:
    """The rows of a metrics file up to the first torn line: a stage may be writing, or have been killed while it
    did."""
    rows: list[Mapping[str, Any]] = []
    if not path.is_file():
        return rows
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        if isinstance(row, Mapping):
            rows.append(row)
    return rows


def _last_of_each_step(rows: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """A resumed stage may have written a step twice: the later row is the one that counts."""
    if not all("step" in row for row in rows):
        return tuple(rows)
    latest = {row["step"]: row for row in rows}
    return tuple(latest[step] for step in sorted(latest))
