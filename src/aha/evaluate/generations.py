"""Generations of an evaluation, kept: one JSON-lines file a bench, its settings first, then a line a problem.

They hold all that a score needs (the problem with its gold, every text, its length and end), so they can be graded
again by other rules without the model, and an evaluation that was stopped continues behind its last whole chunk.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aha.errors import DataError, UsageError
from aha.evaluate.runner import Judged
from aha.records import FinishReason, Problem
from aha.reward.response import Response, read_response
from aha.util.files import append_jsonl, json_text, read_jsonl, write_text_atomic

SUFFIX = ".generations.jsonl"
TAIL = 64  # characters of the prompt that may open a tag


@dataclass(frozen=True)
class Generation:
    """``Generation("<think> 2 + 3 </think> 5", tokens=7, finish_reason="end")``: the text without its end token, which
    ``tokens`` counts."""

    text: str
    tokens: int
    finish_reason: str

    @property
    def truncated(self) -> bool:
        return self.finish_reason == FinishReason.LENGTH


@dataclass(frozen=True)
class Asked:
    """One problem, the end of the prompt that asked it, and what was said."""

    problem: Problem
    prompt_tail: str
    generations: tuple[Generation, ...]

    @property
    def responses(self) -> tuple[Response, ...]:
        return tuple(read_response(g.text, prompt_tail=self.prompt_tail, tokens=g.tokens) for g in self.generations)


def asked(judged: Judged, prompt: str) -> Asked:
    """What is kept of a problem's completions."""
    generations = tuple(
        Generation(text, len(completion.token_ids), completion.finish_reason.value)
        for text, completion in zip(judged.texts, judged.completions, strict=True)
    )
    return Asked(judged.problem, prompt[-TAIL:], generations)


def as_row(one: Asked) -> dict[str, Any]:
    generations = [asdict(generation) for generation in one.generations]
    return {"problem": asdict(one.problem), "prompt_tail": one.prompt_tail, "generations": generations}


def from_row(row: Mapping[str, Any]) -> Asked:
    """``DataError`` where it is no row of ``as_row``."""
    try:
        generations = tuple(Generation(**generation) for generation in row["generations"])
        return Asked(Problem(**row["problem"]), row["prompt_tail"], generations)
    except (KeyError, TypeError) as error:
        raise DataError(f"this is no problem with its generations: {error!r}") from None


def is_kept(folder: Path) -> bool:
    """Whether a folder holds generations."""
    return any(folder.glob(f"*{SUFFIX}"))


class Kept:
    """One bench's file. ``settings`` say what was asked of whom and how; a file of other settings is not continued."""

    def __init__(self, folder: Path, label: str, settings: Mapping[str, Any]) -> None:
        self.path = folder / f"{label}{SUFFIX}"
        self.settings = json.loads(json_text(settings))

    def resume(self, chunk: int) -> list[Asked]:
        """What is kept already: the whole chunks of so many problems, so that the next are sampled together as they
        would have been. What was cut is removed. ``UsageError`` names the settings that differ."""
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append_jsonl(self.path, {"settings": self.settings})
            return []
        text = self.path.read_text(encoding="utf-8")
        *lines, _ = text.split("\n")  # not splitlines: a text may have other line ends in it
        found = json.loads(lines[0]).get("settings") if lines else None
        if not isinstance(found, dict):
            raise DataError(f"{self.path} holds no settings in its first line: remove it, or keep in another folder")
        different = [key for key in self.settings.keys() | found.keys() if self.settings.get(key) != found.get(key)]
        if different:
            said = ", ".join(f"{key} {found.get(key)!r}, now {self.settings.get(key)!r}" for key in sorted(different))
            raise UsageError(f"{self.path} was sampled with {said}: ask the same, or keep in another folder")
        rows = lines[1:]
        whole = len(rows) if len(rows) >= self.settings["problems"] else len(rows) // chunk * chunk
        if text != (kept := "".join(line + "\n" for line in lines[: 1 + whole])):
            write_text_atomic(self.path, kept)
        return [from_row(json.loads(line)) for line in rows[:whole]]

    def append(self, chunk: Sequence[Asked]) -> None:
        for one in chunk:
            append_jsonl(self.path, as_row(one))


def load_kept(folder: Path) -> dict[str, tuple[dict[str, Any], list[Asked]]]:
    """Settings and generations of every bench in a folder, by the bench's name. ``UsageError`` for a folder without, or
    with an evaluation that is not finished."""
    found = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        first, *rows = read_jsonl(path) or [{}]
        settings = first.get("settings")
        if not isinstance(settings, dict):
            raise DataError(f"{path} holds no settings in its first line")
        if len(rows) != settings["problems"]:
            raise UsageError(
                f"{path}: {len(rows)} of {settings['problems']} problems are sampled; finish it with the command that "
                "began it"
            )
        found[settings["bench"]] = settings, [from_row(row) for row in rows]
    if not found:
        raise UsageError(f"{folder} holds no generations: 'aha evaluate MODEL --keep {folder}' makes them")
    return found
