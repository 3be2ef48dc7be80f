"""What an evaluation by hand found, as one JSON object: of a model, of kept generations, or of two compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aha.errors import UsageError
from aha.evaluate.benches import Bench
from aha.evaluate.generations import Asked, load_kept
from aha.evaluate.scores import Graded, bench_scores, compare_scores, grade
from aha.model.config_file import model_folder
from aha.stages.assess import Sampling, assess, dropped_golds, new_token_limit, weights_digest
from aha.stages.models import Policy


@dataclass(frozen=True)
class Evaluation:
    """``result`` for people and programs; ``graded`` is what it was made of, by bench."""

    result: dict[str, Any]
    graded: Mapping[str, Sequence[Graded]]


def evaluate_model(
    path: Path,
    policy: Policy,
    benches: Sequence[Bench],
    sampling: Sampling,
    *,
    keep: Path | None,
    progress: Callable[[int], None],
    against: Evaluation | None = None,
) -> Evaluation:
    """Sample and grade. With ``keep`` the generations stay in that folder, and what it has of them is not sampled.
    ``UsageError`` before anything is sampled, where that could not be compared with ``against``."""
    dtype = str(policy.sampling_dtype).removeprefix("torch.")
    about = {"model": str(path), **asdict(sampling), "template": policy.renderer.template, "dtype": dtype}
    known = {
        bench.name: {"max_new_tokens": new_token_limit(policy, bench), "dropped_golds": dropped_golds(bench)}
        for bench in benches
    }
    if against:
        _check_sampled_alike(against.result, {**about, "benches": known})
    weights = weights_digest(model_folder(path)) if keep else ""
    started = time.perf_counter()
    found = assess(policy, benches, sampling, model=str(path), keep=keep, weights=weights, progress=progress)
    evaluation = _grade(about, found, known)
    return Evaluation(evaluation.result | {"seconds": time.perf_counter() - started}, evaluation.graded)


def evaluate_kept(folder: Path) -> Evaluation:
    """Grade what a folder of generations holds, with the verifiers of today."""
    kept = load_kept(folder)
    settings = next(iter(kept.values()))[0]
    about = {key: settings[key] for key in ("model", "temperature", "top_p", "seed", "template", "dtype")}
    known = {name: settings for name, (settings, _) in kept.items()}
    return _grade(about, {name: rows for name, (_, rows) in kept.items()}, known)


def compare_evaluations(first: Evaluation, second: Evaluation) -> dict[str, Any]:
    """The second against the first on every bench that both have, problem by problem. ``UsageError`` where there is no
    such bench, or the problems or the sampling are not the same."""
    shared = [name for name in first.graded if name in second.graded]
    if not shared:
        ours, theirs = (", ".join(one.graded) for one in (first, second))
        raise UsageError(f"no bench is in both evaluations: {ours}; {theirs}")
    _check_sampled_alike(first.result, second.result)
    benches = {}
    for name in shared:
        rows = [one.result["benches"][name] for one in (first, second)]
        gaps = compare_scores(first.graded[name], second.graded[name])
        sides = [{key: row[key] for key in gaps if key in row} for row in rows]
        benches[name] = {
            "problems": rows[0]["problems"],
            "samples": [row["samples"] for row in rows],
            "first": sides[0],
            "second": sides[1],
            "difference": gaps,
        }
    return {"models": [one.result["model"] for one in (first, second)], "benches": benches}


def _check_sampled_alike(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    for key in ("temperature", "top_p"):
        if first[key] != second[key]:
            raise UsageError(f"the one is sampled at {key} {first[key]}, the other at {second[key]}: sample both alike")
    for name in [name for name in first["benches"] if name in second["benches"]]:
        limits = [one["benches"][name]["max_new_tokens"] for one in (first, second)]
        if limits[0] != limits[1]:
            raise UsageError(
                f"{name}: the one is sampled to {limits[0]} new tokens at most, the other to {limits[1]}: sample both "
                f"alike, with --max-new-tokens {min(limits)}"
            )


def _grade(
    about: Mapping[str, Any], found: Mapping[str, Sequence[Asked]], known: Mapping[str, Mapping[str, Any]]
) -> Evaluation:
    """``known`` of each bench: its ``max_new_tokens`` and ``dropped_golds``."""
    graded = {name: grade(rows) for name, rows in found.items()}
    benches: dict[str, dict[str, Any]] = {}
    for name, rows in graded.items():
        counts = {"problems": len(rows), "samples": len(rows[0].verdicts)}
        benches[name] = {**counts, "max_new_tokens": known[name]["max_new_tokens"], **bench_scores(rows)}
        if known[name]["dropped_golds"]:
            benches[name]["dropped_golds"] = known[name]["dropped_golds"]
    return Evaluation({**about, "benches": benches}, graded)
