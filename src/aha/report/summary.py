"""The figures of a run in one small file, ``summary.json``: what scripts compare and the report's sentences are made
from.

It depends on the run's files alone; only the fields named ``seconds`` differ between two runs of one seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aha.report.findings import compute_findings
from aha.report.reading import Run, Stage, finite, load_run, rolling_mean, series
from aha.util.files import write_json_atomic

LENGTH_WINDOW = 5
TENTH = 10


def build_summary(run: Path) -> dict[str, Any]:
    """Writes ``summary.json`` into the run folder and returns what it wrote.

    ``stages`` maps each evaluated model to its evaluation's measures, with ``seconds`` of the stage that made the
    model (those of a comparison's arms stand in ``comparisons``, by arm, alone);
    ``preferences`` has what the stages that learn from preferences measured;
    ``stale`` has the same of evaluations whose settings, inputs or code have changed since, which no finding counts;
    ``curves`` maps each reinforcement-learning stage to the few numbers its curves come down to, ``scorers`` each
    process reward model to its labels' and its own accuracy; ``seconds`` is the sum over all stages.
    """
    loaded = load_run(run)
    summary = compute_summary(loaded)
    write_json_atomic(Path(run) / "summary.json", summary)
    return summary


def compute_summary(run: Run) -> dict[str, Any]:
    """``build_summary`` without writing."""
    whole, run = run, run.without_arms()
    stages: dict[str, Any] = {}
    stale: dict[str, Any] = {}
    for model, evaluation in run.evaluations().items():
        if not evaluation.metrics:
            continue
        producer = run.producer(model)
        measures = {key: value for key, value in evaluation.metrics.items() if key not in {"model", "seconds"}}
        seconds = producer.seconds if producer is not None else None
        (stale if evaluation.stale else stages)[model] = {
            **_without_seconds(measures),
            "kind": producer.kind if producer is not None else None,
            "seconds": seconds,
        }
    summary: dict[str, Any] = {
        "recipe": run.recipe,
        "version": run.version,
        "seed": run.arguments.get("seed"),
        "stages": stages,
        "stale": stale,
        "curves": {stage.name: curve_numbers(stage) for stage in run.of_kind("rl") if stage.rows and not stage.stale},
        "comparisons": {
            stage.name: {key: value for key, value in stage.metrics.items() if key != "seconds"}
            for stage in run.of_kind("compare")
            if stage.metrics and not stage.stale
        },
        "preferences": {
            stage.name: {"kind": stage.kind, **_without_seconds(stage.metrics)}
            for kind in ("preference_data", "states", "reward_model", "reward_head", "preference")
            for stage in run.of_kind(kind)
            if stage.done and not stage.stale
        },
        "scorers": {
            stage.name: {key: value for key, value in stage.metrics.items() if key != "seconds"}
            for stage in whole.of_kind("process_reward")
            if stage.metrics and not stage.stale
        },
        "missing": [stage.name for stage in whole.stages if not stage.done],
        "seconds": sum(stage.seconds or 0.0 for stage in whole.stages),
    }
    summary["findings"] = [asdict(finding) for finding in compute_findings(run, summary)]
    result = _finite_only(summary)
    assert isinstance(result, dict)
    return result


def curve_numbers(stage: Stage) -> dict[str, Any]:
    """What the curves of one reinforcement-learning stage come down to.

    ``*_start`` and ``*_end`` are means over the first and last 5 steps, ``*_first_tenth`` and ``*_last_tenth`` over a
    tenth
    of the steps; ``length_lowest`` is the smallest mean over 5 steps in a row, ``length_ratio`` is end over lowest.
    """
    numbers: dict[str, Any] = {"steps": len(stage.rows)}
    for key in ("accuracy", "reward", "length", "format", "language", "entropy", "kl"):
        _, values = series(stage.rows, key)
        if values:
            numbers[f"{key}_start"] = _mean(values[:LENGTH_WINDOW])
            numbers[f"{key}_end"] = _mean(values[-LENGTH_WINDOW:])
    steps, lengths = series(stage.rows, "length")
    if lengths:
        window = min(LENGTH_WINDOW, len(lengths))
        full = rolling_mean(lengths, window)[window - 1 :]
        lowest = min(range(len(full)), key=full.__getitem__)
        numbers["length_lowest"] = full[lowest]
        numbers["length_lowest_step"] = steps[lowest + window - 1]
        numbers["length_ratio"] = numbers["length_end"] / full[lowest] if full[lowest] > 0 else None
        quarter = max(1, len(lengths) // 4)
        numbers["length_third_quarter"] = _mean(lengths[-2 * quarter : -quarter] or lengths[-quarter:])
        numbers["length_last_quarter"] = _mean(lengths[-quarter:])
    _, reflection = series(stage.rows, "reflection")
    if reflection:
        tenth = max(1, len(reflection) // TENTH)
        numbers["reflection_first_tenth"] = _mean(reflection[:tenth])
        numbers["reflection_last_tenth"] = _mean(reflection[-tenth:])
    same_weights = [row for row in stage.rows if not row.get("staleness")]  # an older sampler differs by design
    for key in ("logprob_gap", "max_logprob_gap", "mismatch_kl"):
        _, gaps = series(same_weights, key)
        if gaps:
            numbers[key] = max(gaps, key=abs)
    _, sizes = series(stage.rows, "ess")
    if sizes:
        numbers["ess_lowest"] = min(sizes)
    _, truncated = series(stage.rows, "truncated")
    if truncated:
        numbers["truncated_highest"] = max(truncated)
    return numbers


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _without_seconds(entry: Any) -> Any:
    """Times inside an evaluation's measures are dropped: a summary's only times are those of its stages."""
    if isinstance(entry, Mapping):
        return {key: _without_seconds(value) for key, value in entry.items() if key != "seconds"}
    if isinstance(entry, list | tuple):
        return [_without_seconds(value) for value in entry]
    return entry


def _finite_only(entry: Any) -> Any:
    """The same value with every number JSON cannot hold replaced by None."""
    if isinstance(entry, Mapping):
        return {str(key): _finite_only(value) for key, value in entry.items()}
    if isinstance(entry, list | tuple):
        return [_finite_only(value) for value in entry]
    return finite(entry) if isinstance(entry, float) else entry
