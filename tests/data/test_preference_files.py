"""Preferences in files: three kinds of rows, two formats, a split without leaks, and an error for every bad row."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from aha.data.preference_files import load_labelled, load_pairs, load_preference_file, save_labelled, save_pairs
from aha.data.preferences import Labelled, Pair
from aha.errors import DataError

PAIR = {"problem": "why ?", "chosen": "because .", "rejected": "no .", "split": "train"}
TEST = {"question": "who ?", "chosen": "me .", "rejected": "nobody .", "split": "test"}
LABELLED = {"prompt": "hi", "response": "hello", "label": "safe", "split": "train"}


def write(path: Path, rows: list[Any]) -> Path:
    if path.suffix == ".parquet":
        columns = {key: [row.get(key) for row in rows] for row in rows for key in row}
        parquet.write_table(pyarrow.table(columns), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_pairs_of_every_format(name: str, tmp_path: Path) -> None:
    rows = [{**PAIR, "margin": 1.5}, {**TEST, "problem": None}, {**PAIR, "chosen": "no ."}]
    found = load_preference_file(write(tmp_path / name, rows))
    (pair,), (tested,) = found.train, found.test
    assert isinstance(pair, Pair) and isinstance(tested, Pair)
    assert (pair.problem.prompt, pair.chosen, pair.rejected, pair.margin) == ("why ?", "because .", "no .", 1.5)
    assert tested.problem.prompt == "who ?" and pair.problem.id == f"{name}/1"
    assert found.dropped == {"equal texts": 1}
    save_pairs(tmp_path / "saved.jsonl", found.train)
    assert load_pairs(tmp_path / "saved.jsonl") == found.train


def test_judged_pairs_are_turned_by_their_judgements_and_unclear_ones_left_out(tmp_path: Path) -> None:
    def judged(*verdicts: tuple[str, str], split: str = "train") -> dict[str, Any]:
        judgements = [{"first": first, "verdict": verdict} for first, verdict in verdicts]
        return {"problem": f"{verdicts}", "response_a": "one", "response_b": "two", "judgements": judgements,
                "split": split}  # fmt: skip

    rows = [
        judged(("a", "A>>B"), ("b", "B>A")),
        judged(("a", "B>>A"), ("b", "A>>B"), split="test"),
        judged(("a", "A>B"), ("b", "B>A")),  # a gap of 1 is not over 1
        {**judged(("b", "A>>B")), "judgements": json.dumps([{"first": "b", "verdict": "A>>B"}])},
    ]
    found = load_preference_file(write(tmp_path / "a.jsonl", rows))
    assert [(p.chosen, p.rejected, p.margin) for p in found.train] == [("one", "two", 1.5), ("two", "one", 2.0)]  # type: ignore[union-attr]
    assert [(p.chosen, p.margin) for p in found.test] == [("two", 2.0)]  # type: ignore[union-attr]
    assert found.dropped == {"gap too small": 1}
    assert len(load_preference_file(tmp_path / "a.jsonl", gap=0.5).train) == 3


def test_labelled_texts(tmp_path: Path) -> None:
    labels = ["safe", "unsafe", True, False, 1, 0.0]
    rows = [{**LABELLED, "prompt": f"hi {i}", "label": label} for i, label in enumerate(labels)]
    found = load_preference_file(write(tmp_path / "a.jsonl", [*rows, {**LABELLED, "split": "test"}]))
    assert [t.label for t in found.train] == [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]  # type: ignore[union-attr]
    save_labelled(tmp_path / "saved.jsonl", [t for t in found.train if isinstance(t, Labelled)])
    assert load_labelled(tmp_path / "saved.jsonl") == found.train


def test_empty_texts_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [PAIR, {**PAIR, "chosen": ""}, {**PAIR, "rejected": " \n"}, TEST]
    found = load_preference_file(write(tmp_path / "a.jsonl", rows))
    assert len(found.train) == len(found.test) == 1 and found.dropped == {"empty text": 2}
    rows = [LABELLED, {**LABELLED, "response": ""}, {**LABELLED, "prompt": "ho", "split": "test"}]
    assert load_preference_file(write(tmp_path / "b.jsonl", rows)).dropped == {"empty text": 1}


def test_no_prompt_is_on_both_sides(tmp_path: Path) -> None:
    rows = [{k: v for k, v in {**PAIR, "problem": f"p {i // 2}"}.items() if k != "split"} for i in range(400)]
    found = load_preference_file(write(tmp_path / "a.jsonl", rows))
    sides = [{item.problem.prompt for item in side} for side in (found.train, found.test)]
    assert not sides[0] & sides[1] and 10 <= len(sides[1]) <= 30
    named = [{**PAIR, "problem": "same"}, PAIR, {**TEST, "question": None, "problem": "same"}]
    leak = load_preference_file(write(tmp_path / "b.jsonl", named))
    assert [item.problem.prompt for item in leak.train] == ["why ?"]
    assert leak.dropped == {"prompt is tested": 1}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({**PAIR, "problem": None}, "row 2: no prompt"),
        ({**PAIR, "problem": ["why ?"]}, "row 2: no prompt"),
        ({**PAIR, "chosen": 7}, "'chosen' is 7"),
        ({**PAIR, "rejected": None}, "'rejected' is None"),
        ({**PAIR, "chosen": [{"role": "user"}]}, "not a text"),
        ({**PAIR, "margin": -1}, "margin -1"),
        ({**PAIR, "margin": True}, "margin True"),
        ({**PAIR, "margin": float("nan")}, "NaN is no number"),
        ({**PAIR, "split": "dev"}, "split is 'dev'"),
        ({"problem": "x", "response_a": "a", "response_b": "b", "judgements": [{"first": "a"}]}, "judgements"),
        ({"problem": "x", "response_a": "a", "response_b": "b", "judgements": "[{"}, "judgements"),
        ({"problem": "x", "response_a": "a", "response_b": "b", "judgements": 7}, "judgements"),
        ({"problem": "x", "response": "a", "label": 2}, "label 2"),
        ({"problem": "x", "response": "a", "label": [1]}, r"label \[1\]"),
        ({"problem": "x", "response": "a"}, "neither"),
        (LABELLED, "the rows before are Pair, this is Labelled"),
        (["a list"], "expected an object"),
    ],
)
def test_a_bad_row_is_named(row: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says):
        load_preference_file(write(tmp_path / "a.jsonl", [PAIR, row, TEST]))


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no table")
    (tmp_path / "broken.jsonl.gz").write_bytes(b"no gzip")
    for name, says in (
        ("broken.parquet", "Parquet"), ("broken.jsonl.gz", "cannot be read"), ("none.jsonl", "no such file"),
        ("none.parquet", "no such file"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=says):
            load_preference_file(tmp_path / name)
    with pytest.raises(DataError, match="no rows"):
        load_preference_file(write(tmp_path / "empty.jsonl", []))
    with pytest.raises(DataError, match="1 rows to train on and 0 to test"):
        load_preference_file(write(tmp_path / "one.jsonl", [PAIR]))
