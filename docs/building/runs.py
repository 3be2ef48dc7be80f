"""The figures of finished runs, taken over into ``docs/results`` and ``docs/figures``. Run folders are only read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aha.config import canonical
from aha.errors import UsageError
from aha.pipeline.fingerprint import settings_changed
from aha.pipeline.graph import describe
from aha.pipeline.recipe import load_pipeline
from aha.report.comparisons import curves_of, gains
from aha.report.plots import save_comparison_figure, save_readme_figure, save_reliability_figure
from aha.report.reading import Run, load_run
from aha.report.summary import compute_summary
from aha.util.files import read_json, write_json_atomic
from building.results import load_results

PREDICTED = {
    "helpful": "the better of two answers",
    "helpful_even": "the same, lengths balanced",
    "safe": "an answer is the good one",
}


def take(run: Path, root: Path) -> Path:
    """Copies a run's figures to ``docs/results`` and draws its picture if its seed is the recipe's lowest there.

    ``UsageError`` for a run that is not finished, or was made with other settings than the recipe has.
    """
    summary = compute_summary(load_run(run))
    if summary["missing"]:
        raise UsageError(f"{run} is not finished: {', '.join(summary['missing'])}; run it to its end first")
    _check_settings(run)
    path = root / "docs" / "results" / f"{summary['recipe']}-seed{summary['seed']}.json"
    write_json_atomic(path, summary)
    if load_results(root)[summary["recipe"]][0]["seed"] == summary["seed"]:
        _draw(load_run(run), summary, root / "docs" / "figures" / f"{summary['recipe']}.png")
    return path


def _draw(run: Run, summary: Mapping[str, Any], path: Path) -> None:
    for stage in run.of_kind("compare"):
        save_comparison_figure(gains(summary["comparisons"][stage.name]), curves_of(run, stage), path)
        return
    if curves := {
        f"{name}: {PREDICTED[name]}": found["held_out"]["calibration"]["bins"]
        for name, found in summary["preferences"].items()
        if found["kind"] == "reward_head"
    }:
        save_reliability_figure(curves, path)
        return
    if summary["stages"]:
        save_readme_figure(run.folder, path)


def _check_settings(run: Path) -> None:
    """The figures must be those of the recipe as it stands, or the page would describe what nobody ran."""
    made = read_json(run / "recipe.json")
    assignments = [f"{name}={value}" for name, value in made["arguments"].items() if value != ""]
    now = canonical(describe(load_pipeline(made["recipe"], assignments)[0]))
    before, after = ({stage["name"]: _settings_of(stage) for stage in own["stages"]} for own in (made, now))
    if before.keys() != after.keys():
        names = ", ".join(sorted(before.keys() ^ after.keys()))
        raise UsageError(f"{run} has other stages than the recipe now: {names}")
    changed = [f"{name}.{what}" for name in after for what in settings_changed(before[name], after[name])]
    if changed:
        raise UsageError(f"{run} was made with other settings than the recipe has: {'; '.join(changed)}")


def _settings_of(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Without the place where a model from outside lay."""
    dropped = {"folder"} if stage["kind"] == "foundation" else set()
    return {name: value for name, value in stage["settings"].items() if name not in dropped}
