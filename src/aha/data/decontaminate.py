"""Questions that a benchmark asks too, at the published strengths (replications 1.5).

    ngram   a run of ``words`` words of a benchmark's question: 8 for Open-R1 and s1, 10 for others. Finds most; some
            questions of one template as well.
    light   a run of 32 words, or equal after digits and all but letters are deleted (Light-R1). Few false alarms; finds
            the same problem with new numbers.
    fuzzy   ``fuzz.ratio`` of the whole questions at least 95 (OpenThoughts). Misses what was put in other words.

A benchmark's question with fewer words than a run has is compared whole, which the published scripts let pass. A
parent's word that it is clean is worth nothing: check the union (Light-R1 found MATH-500 in three published sets).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rapidfuzz import fuzz, process

from aha.data.card import source_record
from aha.data.dataset import Chunks, Judge, Progress, Removal, Verdicts
from aha.data.fields import read_named
from aha.data.files import Rejected, Row, find_files
from aha.data.text import spaced_words, without_digits
from aha.errors import DataError

Strength = Literal["ngram", "light", "fuzzy"]
LIGHT_WORDS = 32
RATIO = 95.0


def word_runs(words: Sequence[str], size: int) -> Iterator[str]:
    """Every run of ``size`` words, joined by spaces; of a shorter text none."""
    for start in range(len(words) - size + 1):
        yield " ".join(words[start : start + size])


@dataclass(frozen=True)
class Benchmark:
    """What questions are looked up in: ``Benchmark.of([("aime:1", "Find all ...")], "ngram", 8)``; the names of the
    rows say who was met."""

    strength: Strength
    words: int
    runs: dict[str, str] = field(default_factory=dict)
    whole: dict[str, str] = field(default_factory=dict)
    stripped: dict[str, str] = field(default_factory=dict)
    by_length: list[tuple[int, str, str]] = field(default_factory=list)

    @classmethod
    def of(cls, questions: Sequence[tuple[str, str]], strength: Strength, words: int) -> Benchmark:
        found = cls(strength, LIGHT_WORDS if strength == "light" else words)
        for name, question in questions:
            split = spaced_words(question)
            text = " ".join(split)
            if strength == "fuzzy":
                found.by_length.append((len(text), text, name))
                continue
            for run in word_runs(split, found.words):
                found.runs.setdefault(run, name)
            found.whole.setdefault(text, name)
            letters = without_digits(question)
            if strength == "light" and letters:
                found.stripped.setdefault(letters, name)
        found.by_length.sort()
        return found

    def meets(self, question: str) -> Removal | None:
        """Why ``question`` is a leak, if it is one."""
        split = spaced_words(question)
        text = " ".join(split)
        if self.strength == "fuzzy":
            return self._like(text)
        for run in word_runs(split, self.words):
            if run in self.runs:
                return Removal(f"shares {self.words} words with a benchmark", f"{self.runs[run]}: {run}")
        if text in self.whole:
            return Removal("equal to a benchmark's question", self.whole[text])
        letters = without_digits(question) if self.strength == "light" else ""
        if letters and letters in self.stripped:
            return Removal("equal to a benchmark's question but for digits", self.stripped[letters])
        return None

    def _like(self, text: str) -> Removal | None:
        reach = RATIO / (200 - RATIO)  # of two texts with this ratio the shorter has at least this share of the longer
        begin = bisect_left(self.by_length, (int(len(text) * reach), ""))
        end = bisect_right(self.by_length, (int(len(text) / reach) + 1, "\U0010ffff"))
        near = self.by_length[begin:end]
        found = process.extractOne(text, [other for _, other, _ in near], scorer=fuzz.ratio, score_cutoff=RATIO)
        if found is None:
            return None
        return Removal("like a benchmark's question", f"{near[found[2]][2]}: {found[1]:.1f} of 100")


@dataclass(frozen=True)
class Decontaminate:
    """The step: ``Decontaminate(["math500.jsonl"], "ngram", words=8)``. ``DataError`` for a benchmark of which a row
    cannot be read, or that has none: a question left out would be a leak let through."""

    against: Sequence[str | Path]
    strength: Strength = "ngram"
    words: int = 8
    name: str = "decontaminate"

    @property
    def settings(self) -> Mapping[str, Any]:
        sizes: dict[str, dict[str, float]] = {
            "ngram": {"words": self.words},
            "light": {"words": LIGHT_WORDS},
            "fuzzy": {"ratio": RATIO},
        }
        sources = [source_record(file) for file in find_files(self.against)]
        return {"strength": self.strength, **sizes[self.strength], "against": sources}

    def prepare(self, chunks: Chunks, progress: Progress) -> Judge:
        benchmark = Benchmark.of(read_questions(self.against), self.strength, self.words)

        def judge(number: int, rows: Sequence[Row]) -> Verdicts:
            return [benchmark.meets(row.fields["problem"]) for row in rows]

        return judge


def read_questions(sources: Sequence[str | Path]) -> list[tuple[str, str]]:
    """(file:line, question) of every row of the benchmark files, each of which has some."""
    questions = []
    for file in find_files(sources):
        for row in read_named([file]):
            if isinstance(row, Rejected):
                raise DataError(f"{row.file}:{row.line}: {row.why}; a benchmark must be whole, or its leaks pass")
            questions.append((f"{row.file}:{row.line}", row.fields["problem"]))
    return questions
