"""Files of labelled steps: PRM800K's (Lightman et al. 2305.20050), and plain rows of steps and labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aha.errors import DataError
from aha.util.files import read_jsonl


@dataclass(frozen=True, slots=True)
class StepText:
    """``StepText("2 + 3?", ("2 + 3 = 6", "so 6"), (0.0, None))``: a step without a label is read, not learned."""

    problem: str
    steps: tuple[str, ...]
    labels: tuple[float | None, ...]


def load_step_texts(path: Path) -> list[StepText]:
    """Rows ``{"problem", "steps": [text], "labels": [0 .. 1]}``, or PRM800K's ``{"question", "label"}``.

    Of PRM800K a rating of -1 becomes 0, those of 0 (neither helps nor harms) and 1 become 1. The line that was chosen
    is one text; each alternative to a step is a text of its own, labelled at its end. ``DataError`` names the row.
    """
    texts: list[StepText] = []
    for number, row in enumerate(read_jsonl(path), 1):
        try:
            found = _prm800k(row) if "label" in row else [_plain(row)]
            texts += [text for text in found if any(label is not None for label in text.labels)]
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise DataError(f"{path}, row {number}: not labelled steps ({error!r})") from None
    if not texts:
        raise DataError(f"{path} has no labelled steps")
    return texts


def _plain(row: Mapping[str, Any]) -> StepText:
    steps, labels = tuple(map(str, row["steps"])), tuple(None if v is None else float(v) for v in row["labels"])
    if not steps or len(steps) != len(labels) or not all(v is None or 0 <= v <= 1 for v in labels):
        raise ValueError(f"{len(steps)} steps, labels {labels}: need one from 0 to 1 for each")
    return StepText(str(row["problem"]), steps, labels)


def _prm800k(row: Mapping[str, Any]) -> list[StepText]:
    problem, texts = str(row["question"]["problem"]), []
    steps: list[str] = []
    labels: list[float | None] = []
    for step in row["label"]["steps"]:
        chosen = step.get("chosen_completion")
        for index, option in enumerate(step.get("completions") or []):
            if index != chosen and (label := _label(option)) is not None:
                before = (None,) * len(steps)
                texts.append(StepText(problem, (*steps, option["text"]), (*before, label)))
        if chosen is not None:
            steps.append(step["completions"][chosen]["text"])
            labels.append(_label(step["completions"][chosen]))
        elif step.get("human_completion"):
            steps.append(step["human_completion"]["text"])
            labels.append(1.0)
        else:
            break
    return [*texts, StepText(problem, tuple(steps), tuple(labels))]


def _label(option: Mapping[str, Any]) -> float | None:
    rating = option.get("rating")
    return None if rating is None else float(rating >= 0)
