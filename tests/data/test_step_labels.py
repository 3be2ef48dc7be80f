"""Labelled steps are read from PRM800K's rows and from plain ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aha.data.step_labels import StepText, load_step_texts
from aha.errors import DataError


def test_prm800k_and_plain_rows(tmp_path: Path) -> None:
    steps = [
        {"completions": [{"text": "a", "rating": 1}, {"text": "x", "rating": -1}], "chosen_completion": 0},
        {"completions": [{"text": "b", "rating": 0}, {"text": "y", "rating": None}], "chosen_completion": 0},
        {"completions": [], "human_completion": {"text": "h"}, "chosen_completion": None},
        {"completions": [{"text": "z", "rating": -1}], "chosen_completion": None},
    ]
    rows = [
        {"question": {"problem": "Q"}, "label": {"steps": steps, "finish_reason": "found_error"}},
        {"problem": "P", "steps": ["s", "t"], "labels": [0.25, None]},
        {"problem": "N", "steps": ["s", "t"], "labels": [None, None]},  # nothing to learn
    ]
    path = tmp_path / "steps.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_step_texts(path) == [
        StepText("Q", ("x",), (0.0,)),
        StepText("Q", ("a", "b", "h", "z"), (None, None, None, 0.0)),
        StepText("Q", ("a", "b", "h"), (1.0, 1.0, 1.0)),
        StepText("P", ("s", "t"), (0.25, None)),
    ]
    path.write_text('{"problem": "P", "steps": ["s"], "labels": [2]}\n')
    with pytest.raises(DataError, match="row 1"):
        load_step_texts(path)
