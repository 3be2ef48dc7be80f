"""Transcripts for the page: the same problems answered by several models, and groups of one problem with advantages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from aha.records import Sample
from aha.report.names import model_label
from aha.report.reading import Run, Stage, finite

_COLUMNS = tuple(Sample.__dataclass_fields__)
_MOST_ROWS = 20_000  # of one stage; a page shows a few
_MOST_FILES = 12  # looked at from either end for a group whose rewards differ


@dataclass(frozen=True)
class Transcript:
    """Completions of one problem side by side; each has a title such as ``Base`` or ``R1-Zero, step 80``."""

    prompt: str
    answer: str
    task: str
    columns: tuple[tuple[str, Sample], ...]


def side_by_side(run: Run, models: Sequence[str], *, num_problems: int) -> list[Transcript]:
    """The first problems, one of each task and language in turn, that every one of ``models`` answered in its
    evaluation.

    The first completion each model gave is shown, right or wrong. Models without samples are left out.
    """
    answers: dict[str, dict[str, Sample]] = {}
    evaluations = run.evaluations()
    for model in models:
        if model in evaluations and not evaluations[model].stale:
            first: dict[str, Sample] = {}
            for sample in _load(_files(evaluations[model])):
                first.setdefault(sample.problem_id, sample)
            if first:
                answers[model] = first
    if not answers:
        return []
    shared = [
        problem for problem in next(iter(answers.values())) if all(problem in first for first in answers.values())
    ]
    some = next(iter(answers.values()))
    transcripts: list[Transcript] = []
    for problem in _in_turn(shared, {problem: (some[problem].task, some[problem].language) for problem in shared}):
        columns = tuple((model_label(model), first[problem]) for model, first in answers.items())
        sample = columns[0][1]
        transcripts.append(Transcript(sample.prompt, sample.answer, sample.task, columns))
        if len(transcripts) == num_problems:
            break
    return transcripts


def advantage_groups(stage: Stage) -> list[Transcript]:
    """One group near the first and one near the last recorded step of an RL stage, each with its best and worst
    completion.

    A group whose rewards are all equal has no advantages: the nearest recorded step with another one is taken.
    """
    files = _files(stage)
    early = _nearest_group(files)
    late = _nearest_group(files[::-1], last=True)
    groups = [early] if early and late and early[0].step == late[0].step else [early, late]
    transcripts: list[Transcript] = []
    for group in groups:
        if group:
            best = max(group, key=lambda sample: sample.reward)
            worst = min(group, key=lambda sample: sample.reward)
            columns = ((f"Best of {len(group)}", best), (f"Worst of {len(group)}", worst))
            transcripts.append(Transcript(best.prompt, best.answer, best.task, columns))
    return transcripts


def _nearest_group(files: Sequence[Path], *, last: bool = False) -> list[Sample]:
    for path in files[:_MOST_FILES]:
        samples = _load([path])
        for step in sorted({sample.step for sample in samples}, reverse=last):
            group = _first_group_that_differs([sample for sample in samples if sample.step == step])
            if group:
                return group
    return []


def _files(stage: Stage) -> list[Path]:
    return sorted((stage.folder / "samples").glob("*.parquet"))


def _load(paths: Iterable[Path]) -> list[Sample]:
    samples: list[Sample] = []
    for path in paths:
        try:
            table = parquet.read_table(path)
        except (OSError, pyarrow.ArrowException):  # being written by a stage that still runs
            continue
        columns = [name for name in _COLUMNS if name in table.column_names]
        for row in table.select(columns).slice(0, _MOST_ROWS - len(samples)).to_pylist():
            samples.append(_sample(row))
        if len(samples) >= _MOST_ROWS:
            break
    return samples


def _sample(row: Mapping[str, Any]) -> Sample:
    rewards = row.get("rewards") or {}
    if isinstance(rewards, str):
        rewards = json.loads(rewards)
    text = {name: str(row.get(name) or "") for name in ("task", "language", "prompt", "completion", "answer")}
    return Sample(
        step=int(row.get("step") or 0),
        problem_id=str(row.get("problem_id")),
        finish_reason=str(row.get("finish_reason") or ""),
        reward=finite(row.get("reward")) or 0.0,
        rewards={str(name): value for name, score in dict(rewards).items() if (value := finite(score)) is not None},
        tokens=tuple(row.get("tokens") or ()),
        advantages=tuple(finite(advantage) or 0.0 for advantage in row.get("advantages") or ()),
        **text,
    )


def _in_turn(problems: Sequence[str], sort_of: Mapping[str, tuple[str, str]]) -> list[str]:
    """``problems`` so that the sorts (task, language) alternate, each in its own order."""
    by_sort: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        by_sort.setdefault(sort_of[problem], []).append(problem)
    longest = max((len(group) for group in by_sort.values()), default=0)
    return [group[place] for place in range(longest) for group in by_sort.values() if place < len(group)]


def _first_group_that_differs(samples: Sequence[Sample]) -> list[Sample]:
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.problem_id, []).append(sample)
    for group in groups.values():
        if len({sample.reward for sample in group}) > 1:
            return group
    return []
