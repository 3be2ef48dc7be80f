"""What a run would do: the status of every stage in a run folder and the reasons, without touching anything."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from aha.config import fingerprint
from aha.data.lineage import LINEAGE
from aha.errors import AhaError, UsageError
from aha.pipeline.fingerprint import compute_origins, differences
from aha.pipeline.graph import Pipeline, Stage
from aha.pipeline.ledger import Ledger, StageStatus
from aha.util.files import read_json


@dataclass(frozen=True)
class Planned:
    """One stage: its status in the run folder, why it is not done (if anything is there), and whether it will run."""

    stage: Stage
    fingerprint: str
    origin: Mapping[str, Any]
    status: StageStatus
    reasons: tuple[str, ...]
    selected: bool
    seconds: float


def check_folder(pipeline: Pipeline, run: Path) -> None:
    """Raises ``AhaError`` if ``run`` holds another recipe's or version's run, or something that is no run."""
    recipe = run / "recipe.json"
    if recipe.exists():
        stored = read_json(recipe)
        if not isinstance(stored, dict):
            raise AhaError(f"{recipe} is damaged (not an object): choose another folder with --out, or remove {run}")
        there, here = (stored.get("recipe"), stored.get("version")), (pipeline.name, pipeline.version)
        if there != here:
            raise AhaError(
                f"{run} holds a run of recipe {there[0]!r} version {there[1]}, not of {here[0]!r} version {here[1]}: "
                "choose another folder with --out, or remove that one"
            )
    elif run.exists() and (not run.is_dir() or any(path.name != LOCK for path in run.iterdir())):
        raise AhaError(f"{run} exists and is not a run folder (no recipe.json in it): choose another with --out")


LOCK = ".lock"
"""The file in a run folder that is locked while the run is worked on."""


def make_plan(
    pipeline: Pipeline,
    run: Path,
    ledger: Ledger,
    *,
    only: Collection[str] = (),
    redo_from: Collection[str] = (),
) -> list[Planned]:
    """The stages of ``pipeline`` in its order, judged against ``run``.

    ``only`` limits what runs; ``redo_from`` redoes these stages and all that use them even if they are done.
    Raises ``UsageError`` if an ``only`` stage would run without the inputs it needs.
    """
    origins = compute_origins(pipeline)
    chosen = {pipeline.stage(name).name for name in only} or {stage.name for stage in pipeline.stages}
    redone = pipeline.downstream(redo_from)
    plan = []
    for stage in pipeline.stages:
        origin = origins[stage.name]
        if stage.name in redone:
            status, reasons = StageStatus.MISSING, ["asked for with --from"]
        else:
            status, reasons = _judge(stage.name, origin, run, ledger)
        entry = ledger.entries.get(stage.name)
        plan.append(
            Planned(
                stage=stage,
                fingerprint=fingerprint(origin),
                origin=origin,
                status=status,
                reasons=tuple(reasons),
                selected=stage.name in chosen and status is not StageStatus.DONE,
                seconds=entry.seconds if entry and status is not StageStatus.MISSING else 0.0,
            )
        )
    by_name = {planned.stage.name: planned for planned in plan}
    for planned in plan:
        for source in planned.stage.inputs.values():
            needed = by_name[source.name]
            if planned.selected and not needed.selected and needed.status is not StageStatus.DONE:
                raise UsageError(
                    f"--only {planned.stage.name} needs stage {source.name!r}, which is {needed.status}: "
                    f"add --only {source.name}, or leave --only out"
                )
    return plan


def _judge(name: str, origin: Mapping[str, Any], run: Path, ledger: Ledger) -> tuple[StageStatus, list[str]]:
    entry = ledger.entries.get(name)
    if entry is None:
        return StageStatus.MISSING, []
    same = entry.fingerprint == fingerprint(origin)
    # The rename comes before the ledger, so a folder whose entry still says partial is done.
    if (run / name / "result.json").exists():
        if lost := _lost(run / name):
            return StageStatus.MISSING, [f"{', '.join(lost)} is gone or empty"]
        return (StageStatus.DONE, []) if same else (StageStatus.STALE, differences(entry.origin, origin))
    if (run / f"{name}.partial").exists() and entry.status in (StageStatus.PARTIAL, StageStatus.FAILED):
        return (entry.status, []) if same else (StageStatus.MISSING, differences(entry.origin, origin))
    return StageStatus.MISSING, []


def _lost(folder: Path) -> list[str]:
    """What a done stage says it wrote for others, and is not there any more."""
    record = folder / LINEAGE
    written = read_json(record)["stage"]["files"] if record.is_file() else {}
    sizes = {name: (folder / name).stat().st_size if (folder / name).is_file() else -1 for name in written}
    return [name for name, size in sizes.items() if size < 0 or (not size and written[name] != _OF_NOTHING)]


_OF_NOTHING = sha256().hexdigest()
