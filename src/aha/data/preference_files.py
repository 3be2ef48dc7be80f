"""Preferences in files of yours, of any format of data/files.py, and as stages hand them on.

A row has a prompt (``problem``, ``question``, ``prompt``, or another name of data/fields.py) and one of three things:

- ``chosen`` and ``rejected``, with an optional ``margin``;
- ``response_a``, ``response_b`` and ``judgements``: a list of ``{"first": "a", "verdict": "A>>B"}``, or the same as
  JSON text (data/judgements.py);
- ``response`` and ``label``: true or false, 1 or 0, "safe" or "unsafe".

``id`` and ``split`` ("train" or "test") are optional; without ``split`` a hash of the prompt decides.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aha.data.fields import PROBLEM
from aha.data.files import load_rows
from aha.data.judgements import GAP, mean_gap
from aha.data.preferences import Labelled, Pair
from aha.data.problems import is_held_out
from aha.errors import DataError
from aha.records import Problem
from aha.util.files import read_jsonl, write_text_atomic

_LABELS: dict[Any, float] = {"safe": 1.0, "unsafe": 0.0, 1: 1.0, 0: 0.0}  # True is 1, and so is 1.0


@dataclass(frozen=True)
class PreferenceFile:
    """The rows of a file on their side of the split, and how many were left out and why."""

    train: list[Pair] | list[Labelled]
    test: list[Pair] | list[Labelled]
    dropped: Counter[str]


def load_preference_file(path: Path, *, gap: float = GAP) -> PreferenceFile:
    """All pairs, or all labelled texts, of a file; a prompt of the test side is never on the training side.

    Left out and counted: pairs of equal texts, or with an empty one, as published sets have; judged pairs whose gap is
    not over ``gap``; training rows whose prompt is tested. ``DataError`` names file and row of what cannot be used, and
    of a row of another kind than the first.
    """
    rows = load_rows(path)
    if not rows:
        raise DataError(f"{path} has no rows: a prompt with 'chosen' and 'rejected' in each is needed")
    sides: dict[str, list[Any]] = {"train": [], "test": []}
    dropped: Counter[str] = Counter()
    kind: type | None = None
    for number, row in enumerate(rows, 1):
        where = f"{path}, row {number}"
        problem = _problem(row, f"{path.name}/{number}", where)
        item = _item(row, problem, where, gap=gap)
        if isinstance(item, str):
            dropped[item] += 1
            continue
        if kind is not None and type(item) is not kind:
            raise DataError(f"{where}: the rows before are {kind.__name__}, this is {type(item).__name__}: split them")
        kind = type(item)
        side = row.get("split") or ("test" if is_held_out(problem.prompt) else "train")
        if side not in sides:
            raise DataError(f"{where}: split is {side!r}; it has to be 'train' or 'test'")
        sides[side].append(item)
    tested = {item.problem.prompt for item in sides["test"]}
    train = [item for item in sides["train"] if item.problem.prompt not in tested]
    dropped["prompt is tested"] += len(sides["train"]) - len(train)
    if not train or not sides["test"]:
        raise DataError(
            f"{path}: {len(train)} rows to train on and {len(sides['test'])} to test, of {len(rows)}; left out: "
            f"{dict(+dropped)}; add rows, or a 'split'"
        )
    return PreferenceFile(train, sides["test"], +dropped)


def save_pairs(path: Path, pairs: Iterable[Pair]) -> None:
    """One JSON object a line, as ``load_pairs`` reads it."""
    _save(path, (_row(p.problem) | {"chosen": p.chosen, "rejected": p.rejected, "margin": p.margin} for p in pairs))


def save_labelled(path: Path, texts: Iterable[Labelled]) -> None:
    """One JSON object a line, as ``load_labelled`` reads it."""
    _save(path, (_row(t.problem) | {"response": t.text, "label": t.label} for t in texts))


def load_pairs(path: Path) -> list[Pair]:
    """What ``save_pairs`` wrote."""
    return [
        Pair(_saved_problem(row), str(row["chosen"]), str(row["rejected"]), float(row["margin"]))
        for row in read_jsonl(path)
    ]


def load_labelled(path: Path) -> list[Labelled]:
    """What ``save_labelled`` wrote."""
    return [Labelled(_saved_problem(row), str(row["response"]), float(row["label"])) for row in read_jsonl(path)]


def _row(problem: Problem) -> dict[str, Any]:
    return {"id": problem.id, "problem": problem.prompt, "task": problem.task, "language": problem.language}


def _saved_problem(row: Mapping[str, Any]) -> Problem:
    return Problem(str(row["id"]), str(row["problem"]), "", str(row["task"]), str(row["language"]))


def _save(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_text_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _problem(row: Mapping[str, Any], name: str, where: str) -> Problem:
    prompt = next((row[key] for key in PROBLEM if row.get(key) is not None), None)
    if not isinstance(prompt, str) or not prompt.strip():
        raise DataError(f"{where}: no prompt as text in {', '.join(PROBLEM)} (fields: {', '.join(row)})")
    return Problem(str(row.get("id") or name), prompt.strip(), "", "general")


def _item(row: Mapping[str, Any], problem: Problem, where: str, *, gap: float) -> Pair | Labelled | str:
    """What the row says, or why it is left out."""
    if row.get("chosen") is not None or row.get("rejected") is not None:
        margin = row.get("margin") or 0.0
        if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 <= margin < math.inf:
            raise DataError(f"{where}: the margin {margin!r} is no number from 0 up")
        chosen, rejected = (_text(row, key, where) for key in ("chosen", "rejected"))
        return _unusable(chosen, rejected) or Pair(problem, chosen, rejected, float(margin))
    if row.get("judgements") is not None:
        one, other = (_text(row, key, where) for key in ("response_a", "response_b"))
        try:
            mean = mean_gap(_judgements(row["judgements"]))
        except (DataError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{where}: judgements cannot be read: {error}") from None
        if why := _unusable(one, other):
            return why
        if abs(mean) <= gap:
            return "gap too small"
        return Pair(problem, one, other, mean) if mean > 0 else Pair(problem, other, one, -mean)
    if row.get("label") is not None:
        label = row["label"]
        if not isinstance(label, str | int | float) or label not in _LABELS:
            raise DataError(f"{where}: the label {label!r} is none of true, false, 1, 0, 'safe', 'unsafe'")
        text = _text(row, "response", where)
        return Labelled(problem, text, _LABELS[label]) if text.strip() else "empty text"
    raise DataError(
        f"{where}: neither 'chosen' and 'rejected', nor 'judgements', nor 'label' (fields: {', '.join(row)})"
    )


def _unusable(one: str, other: str) -> str | None:
    if not one.strip() or not other.strip():
        return "empty text"
    return "equal texts" if one == other else None


def _judgements(found: Any) -> list[tuple[Any, str]]:
    parsed = json.loads(found) if isinstance(found, str) else found
    return [(judgement["first"], judgement["verdict"]) for judgement in parsed]


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    text = row.get(key)
    if not isinstance(text, str):
        raise DataError(f"{where}: {key!r} is {text!r:.60}, not a text")
    return text
