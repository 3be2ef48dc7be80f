"""How many of a bench's questions stand in what a model was trained on: a score is worth no more than that is zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aha.data.decontaminate import Benchmark, word_runs
from aha.data.lineage import questions_of
from aha.data.text import spaced_words
from aha.records import Problem

WORDS = 8


def contamination(benches: Mapping[str, Sequence[Problem]], files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """For each bench its ``questions``, how many of them share a run of 8 words with a question of ``files`` (a shorter
    one: are equal to it), as ``leaked``, and the ids of some (replications 1.5 A)."""
    known = {name: _Bench(problems) for name, problems in benches.items()}
    for question in questions_of(files):
        for bench in known.values():
            bench.meet(question)
    return {name: bench.found() for name, bench in known.items()}


class _Bench:
    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = problems
        self.known = Benchmark.of([(problem.id, problem.prompt) for problem in problems], "ngram", WORDS)
        self.leaked: dict[str, None] = {}

    def meet(self, question: str) -> None:
        words = spaced_words(question)
        met = (self.known.runs.get(run) for run in word_runs(words, WORDS))
        whole = self.known.whole.get(" ".join(words))
        self.leaked |= dict.fromkeys(name for name in (*met, whole) if name is not None)

    def found(self) -> dict[str, Any]:
        return {"questions": len(self.problems), "leaked": len(self.leaked), "such_as": list(self.leaked)[:5]}


def contamination_lines(found: Mapping[str, Any] | None, model: Path) -> list[str]:
    """What stands below the scores."""
    if found is None:
        return [f"contamination is not known: {model} does not say what it was trained on; give --trained-on FILE"]
    lines = []
    for name, row in found["benches"].items():
        some = f", such as {', '.join(row['such_as'])}" if row["leaked"] else ""
        lines.append(
            f"contamination of {name}: {row['leaked']} of {row['questions']} questions share {WORDS} words with, or "
            f"equal, one of {found['files']} training files{some}"
        )
    return lines
