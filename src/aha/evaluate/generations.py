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
from aha.util.files import append_jsonl, json_object, json_text, read_jsonl, write_bytes_atomic

SUFFIX = ".generations.jsonl"
ALIKE = ("model", "weights_sha256", "template", "dtype", "temperature", "top_p", "seed")
"""Settings of one evaluation, which all files of a folder have alike."""
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


def from_row(row: Mapping[str, Any], where: str) -> Asked:
    """``DataError`` where it is no row of ``as_row``, as is said of ``where`` it stands."""
    try:
        generations = tuple(Generation(**generation) for generation in row["generations"])
        return Asked(Problem(**row["problem"]), row["prompt_tail"], generations)
    except (KeyError, TypeError) as error:
        raise DataError(f"{where}: this is no problem with its generations: {error!r}") from None


def is_kept(folder: Path) -> bool:
    """Whether a folder holds generations."""
    return any(folder.glob(f"*{SUFFIX}"))


class Kept:
    """One bench's file. ``settings`` say what was asked of whom and how; a file of other settings is not continued,
    and a folder keeps one evaluation."""

    def __init__(self, folder: Path, label: str, settings: Mapping[str, Any]) -> None:
        self.path = folder / f"{label}{SUFFIX}"
        self.settings = json.loads(json_text(settings))

    def resume(self, chunk: int) -> list[Asked]:
        """What is kept already: the whole chunks of so many problems, so that the next are sampled together as they
        would have been. What was cut is removed. ``UsageError`` names the settings that differ, also from those of the
        folder's other files; ``DataError`` file and line that cannot be read."""
        if is_there := self.path.exists():
            found = _settings_of(self.path)
            self._compare(self.path, found, sorted(self.settings.keys() | found.keys()))
        for other in sorted(self.path.parent.glob(f"*{SUFFIX}")):
            self._compare(other, _settings_of(other), ALIKE)
        if not is_there:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append_jsonl(self.path, {"settings": self.settings})
            return []
        data = self.path.read_bytes()
        *lines, _ = data.split(b"\n")  # not splitlines: a text may have other line ends in it
        count = len(lines) - 1
        whole = count if count >= self.settings["problems"] else count // chunk * chunk
        rows = [
            from_row(json_object(line, where := f"{self.path}:{number}"), where)
            for number, line in enumerate(lines[1 : 1 + whole], 2)
        ]
        if data != (kept := b"".join(line + b"\n" for line in lines[: 1 + whole])):
            write_bytes_atomic(self.path, kept)
        return rows

    def append(self, chunk: Sequence[Asked]) -> None:
        for one in chunk:
            append_jsonl(self.path, as_row(one))

    def _compare(self, path: Path, found: Mapping[str, Any], keys: Sequence[str]) -> None:
        if said := _differences(found, self.settings, keys, "now"):
            raise UsageError(f"{path} was sampled with {said}: ask the same, or keep in another folder")


def load_kept(folder: Path) -> dict[str, tuple[dict[str, Any], list[Asked]]]:
    """Settings and generations of every bench in a folder, by the bench's name. ``UsageError`` for a folder without,
    with an evaluation that is not finished, or with several."""
    found: dict[str, tuple[dict[str, Any], list[Asked]]] = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        settings, rows = _settings_of(path), read_jsonl(path)[1:]
        for other, _ in found.values():
            if said := _differences(settings, other, ALIKE, f"bench {other['bench']}"):
                raise UsageError(f"{path} was sampled with {said}: two evaluations, each needs a folder of its own")
        if len(rows) != settings["problems"]:
            raise UsageError(
                f"{path}: {len(rows)} of {settings['problems']} problems are sampled; finish it with the command that "
                "began it"
            )
        found[settings["bench"]] = settings, [from_row(row, f"{path}:{number}") for number, row in enumerate(rows, 2)]
    if not found:
        raise UsageError(f"{folder} holds no generations: 'aha evaluate MODEL --keep {folder}' makes them")
    return found


def _settings_of(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        line = file.readline()
    settings = json_object(line, f"{path}:1").get("settings") if line.endswith(b"\n") else None  # it may have been cut
    if not isinstance(settings, dict):
        raise DataError(f"{path} holds no settings in its first line: remove it, or keep in another folder")
    return settings


def _differences(found: Mapping[str, Any], other: Mapping[str, Any], keys: Sequence[str], whose: str) -> str:
    """``samples 3, now 4``: what was found and ``whose`` else it should be, where they are not the same."""
    different = [key for key in keys if found.get(key) != other.get(key)]
    return ", ".join(f"{key} {found.get(key)!r}, {whose} {other.get(key)!r}" for key in different)
