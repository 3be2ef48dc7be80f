"""What a stage's result depends on, as one hash, and in words what changed when two hashes differ."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aha.config import canonical, fingerprint
from aha.pipeline.graph import Pipeline, topological

SCHEMA = 1
"""Of the run folder's files; a new one makes every finished stage stale."""

NOT_PART_OF_A_STAGE = {"cli.py", "__main__.py", "testing.py", "report", "pipeline", "serve"}


def hash_sources(package: Path) -> str:
    """A hash of every source file a stage can import: the package but for what only starts, shows or serves runs."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package)
        if relative.parts[0] not in NOT_PART_OF_A_STAGE:
            digest.update(f"{relative.as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def compute_origins(pipeline: Pipeline, sources: str) -> dict[str, dict[str, Any]]:
    """For each stage everything its result depends on, as plain values; inputs are named by their fingerprints."""
    origins: dict[str, dict[str, Any]] = {}
    for stage in topological(pipeline.stages):
        origins[stage.name] = {
            "settings": canonical(stage.settings),
            "inputs": {edge: fingerprint(origins[source.name]) for edge, source in stage.inputs.items()},
            "seed": pipeline.seed_of(stage),
            "run_seed": pipeline.arguments["seed"],
            "function": f"{stage.run.__module__}.{stage.run.__qualname__}",
            "threads": pipeline.threads,
            "code": sources,
            "schema": SCHEMA,
        }
    return origins


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed from one origin to another: ``["steps 900 -> 40", "input model changed"]``."""
    words = settings_changed(old["settings"], new["settings"])
    for edge in sorted({*old["inputs"], *new["inputs"]}):
        if old["inputs"].get(edge) != new["inputs"].get(edge):
            words.append(f"input {edge} changed")
    if old["run_seed"] != new["run_seed"]:
        words.append(f"seed {old['run_seed']} -> {new['run_seed']}")
    elif old["seed"] != new["seed"]:
        words.append("name of the seed stream changed")
    for key in ("function", "threads", "schema"):
        if old[key] != new[key]:
            words.append(f"{key} {old[key]} -> {new[key]}")
    if old["code"] != new["code"]:
        words.append("source code of aha changed")
    return words


def settings_changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The settings alone: ``["steps 900 -> 40"]``."""
    return [f"{key} {before!r} -> {after!r}" for key, before, after in _changed(old, new)]


def _changed(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for key in [*new, *(key for key in old if key not in new)]:
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _changed(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key}", before, after
