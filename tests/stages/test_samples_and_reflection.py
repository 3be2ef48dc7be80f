"""Sample files have one schema whatever is in them; reflection words are counted in both languages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pyarrow import parquet

from aha.records import Sample
from aha.stages.reflection import count_reflections
from aha.stages.samples import write_samples
from aha.tasks.words import say

SAMPLE = Sample(3, "p", "chain", "zh", "计算", "<think>", "5", "end", 1.2, {"format": 1.0, "accuracy": 1.0})


def test_samples_survive_the_file_and_have_one_schema(tmp_path: Path) -> None:
    with_tokens = Sample(4, "p", "chain", "en", "q", "a b", "5", "length", 0.0, {}, ("a", "b"), (0.5, -0.5))
    tables = []
    for name, samples in (("bare", [SAMPLE]), ("full", [with_tokens, SAMPLE]), ("none", [])):
        write_samples(tmp_path / "samples" / f"{name}.parquet", samples)
        tables.append(parquet.read_table(tmp_path / "samples" / f"{name}.parquet"))
    assert tables[0].schema == tables[1].schema == tables[2].schema
    assert tables[0].column_names == list(Sample.__dataclass_fields__)
    first, second = tables[1].to_pylist()
    assert (first["tokens"], first["advantages"]) == (["a", "b"], [0.5, -0.5])
    assert json.loads(second["rewards"]) == {"format": 1.0, "accuracy": 1.0}
    assert second["prompt"] == "计算"
    assert {path.suffix for path in (tmp_path / "samples").iterdir()} == {".parquet"}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("first 2 + 3 = 5 .", 0),
        ("Wait, I made a mistake; let me check.", 3),
        ("waiting rechecked", 0),
        (say("wait 5 . check 6 ok . again .", "zh"), 3),
        ("等等，我再检查一下。不对，错了。", 3),  # Chinese is written without spaces
    ],
)
def test_reflection_words_are_whole_words(text: str, count: int) -> None:
    assert count_reflections(text) == count
