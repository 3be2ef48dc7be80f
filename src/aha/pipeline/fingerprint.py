"""What a stage's result depends on, as one hash, and in words what changed when two hashes differ."""

from __future__ import annotations

import ast
import contextlib
import functools
import glob
import hashlib
import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import aha
from aha.config import Frozen, decisive, fingerprint
from aha.pipeline.graph import Pipeline, topological

SCHEMA = 2
"""Of the run folder's files; a new one makes every finished stage stale."""

PACKAGE = Path(aha.__file__).resolve().parent


def hash_code(run: Callable[..., Any]) -> str:
    """A hash of the file ``run`` is written in and of every file of aha that it imports or starts, directly or not.

    What only starts, draws or serves runs is thereby no part of a stage: a better plot makes no model stale.
    """
    digest = hashlib.sha256()
    for path in sorted(imported_files(Path(inspect.getfile(run)))):
        digest.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def imported_files(file: Path) -> set[Path]:
    """``file`` and all of aha's that it imports, starts in a process of their own or compiles, directly or not."""
    found: set[Path] = set()
    waiting = [file]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imports(path) if path.suffix == ".py" else ()
    return found


@functools.cache
def _imports(path: Path) -> tuple[Path, ...]:
    """The files of aha whose modules, or packages' ``__init__``, ``path`` names, and the C that lies beside it."""
    names = set(_modules(ast.parse(path.read_bytes())))
    places = [PACKAGE.parent.joinpath(*name.split(".")) for name in names if name.split(".")[0] == PACKAGE.name]
    files = [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
    return (*(file for file in files if file.is_file()), *path.parent.glob("*.[ch]"))


def _modules(tree: ast.AST) -> Iterator[str]:
    """What is imported, and what is named in a string: as ``"aha.tasks.symbolic:compare"``, which a worker calls, as
    ``"aha.util.worker"`` after ``-m``, or in code that another interpreter is given."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.fullmatch(r"\w+(\.\w+)+(:\w+)?", node.value):
                yield node.value.partition(":")[0]
            elif "import " in node.value:
                with contextlib.suppress(SyntaxError):
                    yield from _modules(ast.parse(node.value))


def hash_files(settings: Frozen) -> dict[str, str]:
    """For each setting that is a path, what the file, folder or glob holds, and by which names, which rows without an
    id are called after: where it lies is no input. Of a file over 64 MiB the size and both ends are read."""
    paths = {name: value for name in type(settings).model_fields if isinstance(value := getattr(settings, name), Path)}
    return {name: _hash_content(path) for name, path in paths.items()}


def _hash_content(path: Path) -> str:
    digest = hashlib.sha256()
    named = [path] if path.exists() else map(Path, glob.glob(str(path), recursive=True))
    for file in sorted(path.rglob("*") if path.is_dir() else named):
        if file.is_file():
            size = file.stat().st_size
            name = file.relative_to(path) if path.is_dir() else file.name
            digest.update(f"{name}\0{size}\0".encode())
            with file.open("rb") as stream:
                if size > _WHOLE:
                    digest.update(stream.read(_END))
                    stream.seek(-_END, os.SEEK_END)
                digest.update(stream.read())
    return digest.hexdigest()[:16]


_WHOLE, _END = 64 << 20, 1 << 20


def compute_origins(
    pipeline: Pipeline, code: Callable[[Callable[..., Any]], str] = hash_code
) -> dict[str, dict[str, Any]]:
    """For each stage everything its result depends on, as plain values; inputs are named by their fingerprints.

    ``code`` gives the hash of a stage's code.
    """
    origins: dict[str, dict[str, Any]] = {}
    for stage in topological(pipeline.stages):
        files = hash_files(stage.settings)
        origins[stage.name] = {
            "settings": {key: value for key, value in decisive(stage.settings).items() if key not in files},
            "inputs": {edge: fingerprint(origins[source.name]) for edge, source in stage.inputs.items()},
            "seed": pipeline.seed_of(stage),
            "run_seed": pipeline.arguments["seed"],
            "function": f"{stage.run.__module__}.{stage.run.__qualname__}",
            "threads": pipeline.threads_of(stage),
            "code": code(stage.run),
            "files": files,
            "schema": SCHEMA,
        }
    return origins


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed from one origin to another: ``["steps 900 -> 40", "input model changed"]``."""
    if old.get("schema") != new["schema"]:
        return [f"format of run folders {old.get('schema')} -> {new['schema']}"]
    words = settings_changed(old["settings"], new["settings"])
    for edge in sorted({*old["inputs"], *new["inputs"]}):
        if old["inputs"].get(edge) != new["inputs"].get(edge):
            words.append(f"input {edge} changed")
    if old["run_seed"] != new["run_seed"]:
        words.append(f"seed {old['run_seed']} -> {new['run_seed']}")
    elif old["seed"] != new["seed"]:
        words.append("name of the seed stream changed")
    for key in ("function", "threads"):
        if old[key] != new[key]:
            words.append(f"{key} {old[key]} -> {new[key]}")
    for name in sorted({*old["files"], *new["files"]}):
        if old["files"].get(name) != new["files"].get(name):
            words.append(f"content of {name} changed")
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
