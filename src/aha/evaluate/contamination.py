"""How many of a bench's questions stand in what a model was trained on: a score is worth no more than that is zero."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aha.data.decontaminate import word_runs
from aha.data.lineage import questions_of
from aha.data.text import spaced_words
from aha.records import Problem

WORDS = 8


def contamination(benches: Mapping[str, Sequence[Problem]], files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """For each bench its ``questions``, how many of them share a run of 8 words with a question of ``files`` (a shorter
    one: are equal to it), as ``leaked``, how many are ``equal`` to one, and the ids of some, those first (replications
    1.5 A). A benchmark's questions are those of its rows, without what we ask beside. A bench of templates shares runs
    without a leak."""
    known = {name: _Bench(problems) for name, problems in benches.items()}
    for question in questions_of(files):
        for bench in known.values():
            bench.meet(question)
    return {name: bench.found() for name, bench in known.items()}


class _Bench:
    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = problems
        self.runs: defaultdict[str, list[int]] = defaultdict(list)  # which problems have it
        self.whole: defaultdict[str, list[int]] = defaultdict(list)
        for number, problem in enumerate(problems):
            words = spaced_words(problem.meta.get("question", problem.prompt))
            self.whole[" ".join(words)].append(number)
            for run in word_runs(words, WORDS):
                self.runs[run].append(number)
        self.sharing: dict[int, None] = {}
        self.equal: dict[int, None] = {}

    def meet(self, question: str) -> None:
        words = spaced_words(question)
        equal = self.whole.get(" ".join(words), ())
        self.equal |= dict.fromkeys(equal)
        self.sharing |= dict.fromkeys(equal)
        for run in word_runs(words, WORDS):
            self.sharing |= dict.fromkeys(self.runs.get(run, ()))

    def found(self) -> dict[str, Any]:
        some = [*self.equal, *(number for number in self.sharing if number not in self.equal)][:5]
        return {
            "questions": len(self.problems),
            "leaked": len(self.sharing),
            "equal": len(self.equal),
            "such_as": [self.problems[number].id for number in some],
        }


def contamination_lines(found: Mapping[str, Any] | None, model: str | Path) -> list[str]:
    """What stands below the scores."""
    if not found or not found["files"]:
        why = "has no stage behind it with a file of questions" if found else "does not say what it was trained on"
        return [f"contamination is not known: {model} {why}; give --trained-on FILE"]
    lines = []
    for name, row in found["benches"].items():
        some = f", such as {', '.join(row['such_as'])}" if row["leaked"] else ""
        lines.append(
            f"contamination of {name}: {row['leaked']} of {row['questions']} questions share {WORDS} words with one of "
            f"{found['files']} training files, {row['equal']} are equal to one there{some}"
        )
    return lines
