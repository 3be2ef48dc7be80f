"""Near-duplicates and benchmark leaks among synthetic questions, by the commands' own steps: time, memory, growth.

A tenth of the questions first, then all of them, each read from a file and written as a data set with its card, as
``aha data dedup`` and ``aha data decontaminate --words 8`` do. What was planted is counted in what they found.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aha.data.dataset import Output, Step, build
from aha.data.decontaminate import Decontaminate
from aha.data.dedup import Dedup
from benchmarks.setting import Peak, Stopwatch, processor_name, row, versions

NUM_QUESTIONS = 1_000_000
NUM_BENCHMARK = 2_000
LEAKS, COPIES, CHANGED = 0.001, 0.02, 0.05  # shares of questions that are planted
TEMPLATE = "A shop sells {} boxes of pens with {} in each, and {} loose ones; how many pens does it sell in all today?"


def measure(*, limit: int = NUM_QUESTIONS) -> dict[str, Any]:
    """``limit`` questions, and a tenth of them before."""
    rows, seconds, notes = [], {}, []
    for count in (max(1, limit // 10), limit):
        with tempfile.TemporaryDirectory() as folder:
            source, benchmark = Path(folder) / "questions.jsonl", Path(folder) / "benchmark.jsonl"
            planted = write_questions(source, benchmark, count)
            steps: dict[str, Step] = {"dedup": Dedup(), "decontaminate": Decontaminate([benchmark], "ngram", 8)}
            for name, step in steps.items():
                with Peak() as peak:
                    watch = Stopwatch()
                    card = build(step, [source], Output(Path(folder) / name), _silent)
                    taken = watch.read()
                seconds[name, count] = taken
                text = f"{name}, {count:,} questions"
                rows.append(row(f"{text}, wall", [taken.wall], unit="s", peak=peak.mib))
                rows.append(row(f"{text}, processor", [taken.cpu], unit="s", peak=peak.mib))
                notes.append(f"{text}: removed {card['counts']['removed']}, planted {planted[name]}")
    ratios = {
        f"{name}, {limit:,} / {limit // 10:,} questions": {
            clock: getattr(seconds[name, limit], clock) / getattr(seconds[name, max(1, limit // 10)], clock)
            for clock in ("wall", "cpu")
        }
        for name in ("dedup", "decontaminate")
    }
    return {
        "benchmark": "data",
        "setting": {"questions": limit, "benchmark_questions": NUM_BENCHMARK, "processor": processor_name()},
        "rows": rows,
        "ratios": ratios,
        "notes": notes,
        "versions": versions("numpy", "rapidfuzz"),
    }


def write_questions(source: Path, benchmark: Path, count: int) -> dict[str, dict[str, int]]:
    """Both files, a row at a time; returns what was planted for each step to find."""
    rng = random.Random(0)
    syllables = [f"{x}{y}{z}" for x in "bcdfgklmnprst" for y in "aeiou" for z in "lmnrst"]
    words = [f"{syllable}{end}" for syllable in syllables for end in ("a", "ek", "io", "u")]
    asked = [_text(rng, words) for _ in range(NUM_BENCHMARK)]
    benchmark.write_text("".join(json.dumps({"problem": text}) + "\n" for text in asked))
    planted = {"dedup": {"copies": 0, "changed": 0}, "decontaminate": {"leaks": 0}}
    with source.open("w") as file:
        for number, text in enumerate(_questions(rng, words, asked, count, planted)):
            file.write(json.dumps({"id": str(number), "problem": text, "answer": "1"}) + "\n")
    return planted


def _questions(
    rng: random.Random, words: list[str], asked: list[str], count: int, planted: dict[str, dict[str, int]]
) -> Iterator[str]:
    """Free text, a tenth from one template (which must not become one bucket), and the planted ones. Near copies are
    of one of the last thousand texts."""
    recent: list[str] = []
    for _ in range(count):
        draw = rng.random()
        if draw < LEAKS:
            split = rng.choice(asked).split()
            yield f"{_text(rng, words)} {' '.join(split[3:13])}"
            planted["decontaminate"]["leaks"] += 1
        elif recent and draw < LEAKS + COPIES:
            yield rng.choice(recent).upper()
            planted["dedup"]["copies"] += 1
        elif recent and draw < LEAKS + COPIES + CHANGED:
            split = rng.choice(recent).split()
            yield " ".join([*split[:-1], rng.choice(words)])  # one run of three words of at least 18 is another
            planted["dedup"]["changed"] += 1
        elif draw < 0.2:
            yield TEMPLATE.format(*(rng.randrange(1, 10_000) for _ in range(3)))
        else:
            text = _text(rng, words)
            recent = [*recent[-999:], text] if len(recent) < 1_000 else recent
            if len(recent) == 1_000:
                recent[rng.randrange(1_000)] = text
            yield text


def _text(rng: random.Random, words: list[str]) -> str:
    return " ".join(rng.choices(words, k=rng.randint(20, 70)))


def _silent(what: str, done: int, total: int | None) -> None:
    pass
