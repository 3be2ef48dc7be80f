"""Rows of a benchmark as its authors or a hub publish them: files of the common formats, a folder, or a hub name."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from aha.data.files import format_of, load_rows
from aha.errors import DataError, UsageError

Row = dict[str, Any]
_HUB = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?::(?P<config>[\w.-]+))?(?:@(?P<split>[\w.-]+))?")


def read_rows(source: str) -> list[Row]:
    """The rows of what data/files.py reads (a file, a folder, a glob), or of ``OWNER/NAME[:CONFIG][@SPLIT]`` on a hub
    (split ``test`` unless given). ``DataError`` where there is none; ``UsageError`` without the library of the hub."""
    path = Path(source)
    hub = None if path.exists() or format_of(path) else _HUB.fullmatch(source)
    rows = _read_hub(hub["name"], hub["config"], hub["split"] or "test") if hub else load_rows(source)
    if not rows:
        raise DataError(f"{source} has no rows")
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
