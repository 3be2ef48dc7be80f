"""A recipe as values: stages, whose edges are other stages, and the pipeline that holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from aha.config import Frozen
from aha.config import override as override_setting
from aha.errors import SettingError, UsageError, nearest
from aha.records import StageResult
from aha.util.seeds import stream

StageFunction = Callable[..., StageResult]
"""``run(settings, inputs: Mapping[str, Path], context: Context) -> StageResult``, at the top level of a module."""


@dataclass(frozen=True, eq=False)
class Stage:
    """One node: ``Stage("dev1", sft.run, sft.Settings(steps=300), {"model": base, "samples": r1_zero_samples})``.

    ``inputs`` maps the name of an edge to the stage whose folder arrives there. ``seed_name`` gives two stages the same
    randomness (default: the stage's own name). ``cost`` is a hint, in any unit, of how long the stage takes.
    ``threads`` is for a stage that all others wait for (default: the pipeline's number).
    """

    name: str
    run: StageFunction
    settings: Frozen
    inputs: Mapping[str, Stage] = field(default_factory=dict)
    seed_name: str | None = None
    cost: float = 1.0
    threads: int | None = None

    @property
    def kind(self) -> str:
        """The module that runs it: ``rl`` for ``aha.stages.rl.run``."""
        return self.run.__module__.rpartition(".")[2]

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise UsageError(f"stage name {self.name!r} must be letters, digits and underscores: it becomes a folder")
        if "." in getattr(self.run, "__qualname__", "."):
            raise UsageError(f"stage {self.name!r} must run a function at the top level of a module, not {self.run!r}")


@dataclass(frozen=True, eq=False)
class Pipeline:
    """A recipe made concrete. ``version`` changes when the recipe changes so much that old runs are not continued.

    ``arguments`` are what the recipe's function was called with, with at least ``seed``. ``threads`` is the number of
    threads of a stage that names none: it decides the last bits of a result and is therefore the recipe's, not the
    machine's. Raises ``UsageError`` for two stages of one name, an input from outside, or a cycle.
    """

    name: str
    version: int
    arguments: Mapping[str, Any]
    stages: tuple[Stage, ...]
    threads: int = 1

    def __post_init__(self) -> None:
        if "seed" not in self.arguments:
            raise UsageError(f"pipeline {self.name!r} has no argument 'seed'")
        names = [stage.name for stage in self.stages]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise UsageError(f"pipeline {self.name!r} has two stages named {doubled[0]!r}")
        members = {id(stage) for stage in self.stages}
        for stage in self.stages:
            for edge, source in stage.inputs.items():
                if id(source) not in members:
                    raise UsageError(f"input {edge!r} of stage {stage.name!r} is {source.name!r}, not in the pipeline")
        topological(self.stages)

    def stage(self, name: str) -> Stage:
        """The stage called ``name``; ``UsageError`` offers the nearest name."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise UsageError(f"recipe {self.name!r} has no stage {name!r}: {nearest(name, [s.name for s in self.stages])}")

    def seed_of(self, stage: Stage) -> int:
        """The seed of a stage: the stream of its name in the recipe's seed."""
        return stream(int(self.arguments["seed"]), "stage", stage.seed_name or stage.name)

    def threads_of(self, stage: Stage) -> int:
        """The threads a stage computes with."""
        return stage.threads or self.threads

    def downstream(self, names: Iterable[str]) -> set[str]:
        """``names`` and every stage that uses a result of theirs, directly or not."""
        reached = {self.stage(name).name for name in names}
        for stage in topological(self.stages):
            if any(source.name in reached for source in stage.inputs.values()):
                reached.add(stage.name)
        return reached

    def remaining_cost(self) -> dict[str, float]:
        """For each stage the cost of the longest path that begins with it: what is longest should start first."""
        costs = {stage.name: stage.cost for stage in self.stages}
        for stage in reversed(topological(self.stages)):
            for source in stage.inputs.values():
                costs[source.name] = max(costs[source.name], source.cost + costs[stage.name])
        return costs


def topological(stages: Iterable[Stage]) -> list[Stage]:
    """``stages`` with every stage after its inputs, otherwise in the given order; ``UsageError`` on a cycle."""
    waiting, placed, ordered = list(stages), set[int](), list[Stage]()
    while waiting:
        ready = [stage for stage in waiting if all(id(source) in placed for source in stage.inputs.values())]
        if not ready:
            raise UsageError(f"stages {', '.join(stage.name for stage in waiting)} wait for each other in a cycle")
        ordered.append(ready[0])
        placed.add(id(ready[0]))
        waiting.remove(ready[0])
    return ordered


def override(pipeline: Pipeline, assignments: Iterable[str]) -> Pipeline:
    """``pipeline`` with settings replaced: ``override(pipeline, ["r1_zero.steps=40"])``.

    ``SettingError`` offers the nearest name of an unknown stage or setting.
    """
    settings = {stage.name: stage.settings for stage in pipeline.stages}
    for assignment in assignments:
        target, equals, text = assignment.partition("=")
        name, dot, key = target.strip().partition(".")
        if not (equals and dot and key):
            raise SettingError(f"--set {assignment}: expected stage.key=value")
        if name not in settings:
            raise SettingError(f"--set {assignment}: no stage {name!r} in {pipeline.name!r}: {nearest(name, settings)}")
        settings[name] = override_setting(settings[name], key, text, owner=name)
    rebuilt: dict[str, Stage] = {}
    for stage in topological(pipeline.stages):
        inputs = {edge: rebuilt[source.name] for edge, source in stage.inputs.items()}
        rebuilt[stage.name] = replace(stage, settings=settings[stage.name], inputs=inputs)
    return replace(pipeline, stages=tuple(rebuilt[stage.name] for stage in pipeline.stages))


def describe(pipeline: Pipeline) -> dict[str, Any]:
    """The resolved recipe as plain values, what ``recipe.json`` holds."""
    return {
        "recipe": pipeline.name,
        "version": pipeline.version,
        "arguments": dict(pipeline.arguments),
        "stages": [
            {
                "name": stage.name,
                "kind": stage.kind,
                "threads": pipeline.threads_of(stage),
                "settings": stage.settings.model_dump(mode="json"),
                "inputs": {edge: source.name for edge, source in stage.inputs.items()},
            }
            for stage in pipeline.stages
        ],
    }
