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

SCHEMA = pyarrow.schema(
    [
        ("step", pyarrow.int64()),
        *((name, pyarrow.string()) for name in ("problem_id", "task", "language", "prompt", "completion", "answer")),
        ("finish_reason", pyarrow.string()),
        ("reward", pyarrow.float64()),
        ("rewards", pyarrow.string()),
        ("tokens", pyarrow.list_(pyarrow.string())),
        ("advantages", pyarrow.list_(pyarrow.float64())),
    ]
)


def write_samples(path: Path, samples: Sequence[Sample]) -> None:
    """Columns of ``records.Sample``, the same types in every file; ``rewards`` as JSON. The file is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{**asdict(sample), "rewards": json.dumps(dict(sample.rewards), sort_keys=True)} for sample in samples]
    for row in rows:
        row["tokens"], row["advantages"] = list(row["tokens"]), list(row["advantages"])
    temporary = path.with_suffix(".tmp")
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=SCHEMA), temporary)
    os.replace(temporary, path)
