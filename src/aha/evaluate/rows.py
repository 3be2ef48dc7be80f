"""Rows of a benchmark as its authors or a hub publish them: JSON lines, JSON, CSV, Parquet, a folder, or a hub name."""

from __future__ import annotations

import csv
import importlib
import re
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from aha.errors import DataError, UsageError
from aha.util.files import read_json, read_jsonl

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet")
_HUB = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?::(?P<config>[\w.-]+))?(?:@(?P<split>[\w.-]+))?")


def read_rows(source: str) -> list[Row]:
    """The rows of a file, of all such files of a folder by name, or of ``OWNER/NAME[:CONFIG][@SPLIT]`` on a hub (split
    ``test`` unless given). ``DataError`` where there is none; ``UsageError`` for what is neither."""
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES))
        rows = [row for file in files for row in _read_file(file)]
    elif path.exists() or not (hub := _HUB.fullmatch(source)) or source.endswith(SUFFIXES):
        rows = _read_file(path)
    else:
        rows = _read_hub(hub["name"], hub["config"], hub["split"] or "test")
    if not rows:
        raise DataError(f"{source} has no rows: a benchmark needs files that end in {', '.join(SUFFIXES)}")
    return rows


def _read_file(path: Path) -> list[Row]:
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return read_jsonl(path)
    if not path.exists():
        raise DataError(f"{path}: no such file")
    try:
        if path.suffix == ".parquet":
            return list(pyarrow.parquet.read_table(path).to_pylist())
        if path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                return list(csv.DictReader(file))
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    if path.suffix != ".json":
        raise UsageError(f"{path}: a benchmark's file ends in {', '.join(SUFFIXES)}")
    rows = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: expected a JSON list of objects")
    return rows


def _read_hub(name: str, config: str | None, split: str) -> list[Row]:
    try:
        library = importlib.import_module("datasets")
    except ModuleNotFoundError as error:
        if error.name != "datasets":
            raise
        raise UsageError(
            f"{name} is no file or folder here, and a data set of a hub needs: pip install datasets"
        ) from None
    try:
        return [dict(row) for row in library.load_dataset(name, config, split=split)]
    except Exception as error:  # whatever a network and a library may say
        raise DataError(f"{name} (config {config or 'default'}, split {split}): cannot be loaded: {error}") from None
