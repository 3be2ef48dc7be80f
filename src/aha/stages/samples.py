"""Samples as people and programs read them later: one Parquet file a step."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow
from pyarrow import parquet

from aha.records import Sample


def write_samples(path: Path, samples: Sequence[Sample]) -> None:
    """Columns of ``records.Sample``; ``rewards`` as JSON. The file is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{**asdict(sample), "rewards": json.dumps(dict(sample.rewards), sort_keys=True)} for sample in samples]
    for row in rows:
        row["tokens"], row["advantages"] = list(row["tokens"]), list(row["advantages"])
    temporary = path.with_suffix(".tmp")
    parquet.write_table(pyarrow.Table.from_pylist(rows), temporary)
    os.replace(temporary, path)
