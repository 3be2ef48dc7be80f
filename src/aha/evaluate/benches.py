"""Benches to evaluate on: generated held-out problems, the same for every model, copies of published benchmarks, and
problem files of your own."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aha.data.files import format_of
from aha.data.problems import (
    HELD_OUT,
    BadGold,
    arithmetic_problems,
    drop_bad_golds,
    is_held_out,
    load_checked,
    split_by_hash,
    split_key,
    spread,
)
from aha.errors import UsageError, nearest
from aha.evaluate.benchmarks import BENCHMARKS, MAX_NEW_TOKENS, load_benchmark_problems
from aha.records import Problem
from aha.tasks import chain, countdown, gym
from aha.tasks.words import LANGUAGES
from aha.util.seeds import python_rng

NUM_PROBLEMS = 200
NUM_SAMPLES = 16
MOST_NEW_TOKENS = 1024
GYM_SEED = 0
_FEWEST_DRAWS, _MOST_DRAWS = 200, 4


def _chain(count: int) -> list[Problem]:
    return _generated(count, lambda rng, language: chain.generate(rng, language=language), "chain")


def _countdown(count: int) -> list[Problem]:
    return _generated(count, lambda rng, language: countdown.generate(rng, language=language), "countdown")


def _arithmetic(count: int) -> list[Problem]:
    _, held_out = split_by_hash(arithmetic_problems())
    return spread(held_out, python_rng(0, "bench", "arithmetic"))[:count]


BENCHES: dict[str, Callable[[int], list[Problem]]] = {
    "chain": _chain,
    "countdown": _countdown,
    "arithmetic": _arithmetic,
}


@dataclass(frozen=True)
class Bench:
    """Problems to ask ``samples`` times each, by the ``name`` that was asked for. Where ``max_new_tokens`` is None it
    is what fits, ``most_new_tokens`` at most. ``dropped`` are rows whose gold cannot be read."""

    name: str
    problems: tuple[Problem, ...]
    samples: int
    max_new_tokens: int | None = None
    most_new_tokens: int = MOST_NEW_TOKENS
    dropped: tuple[BadGold, ...] = ()

    @property
    def label(self) -> str:
        """A name for a file: ``math500=data/test.jsonl`` is ``math500``, ``my/set.jsonl`` is ``set``."""
        kind = self.name.partition("=")[0]
        name = kind if kind in BENCHMARKS else Path(self.name).name
        return name.removesuffix(".gz").removesuffix(".jsonl").replace(":", "-")


def open_bench(name: str, *, limit: int | None, samples: int | None, max_new_tokens: int | None) -> Bench:
    """A bench with what is not given as published, or 16 samples where nothing is."""
    dropped: list[BadGold] = []
    problems = load_bench(name, limit=limit, dropped=dropped)
    published = BENCHMARKS.get(name.partition("=")[0])
    usual, most = (published.samples, MAX_NEW_TOKENS) if published else (NUM_SAMPLES, MOST_NEW_TOKENS)
    return Bench(name, tuple(problems), samples or usual, max_new_tokens, most, tuple(dropped))


def load_bench(name: str, *, limit: int | None, dropped: list[BadGold] | None = None) -> list[Problem]:
    """The problems of a bench by name (200 of them), of a family of reasoning-gym (``gym:leg_counting``), of a copy of
    a published benchmark (``math500=FILE``, a folder or hub name) or of a file or folder of problems; the first
    ``limit``.

    Generated problems are on the held-out side of the split by hash, so no stage of a run has trained on them. Rows of
    a file whose gold no answer can equal are left out and put into ``dropped``.
    """
    count = NUM_PROBLEMS if limit is None else limit
    if name in BENCHES:
        return BENCHES[name](count)
    if name.startswith("gym:"):
        return _drawn(name.removeprefix("gym:"), count)
    kind, given, source = name.partition("=")
    if kind in BENCHMARKS:
        if not source:
            raise UsageError(f"bench {kind}: no problems of it are shipped; give your copy, {kind}=FILE, or a hub name")
        problems, bad = drop_bad_golds(load_benchmark_problems(kind, source), source)
    elif format_of(Path(name)) or Path(name).exists():
        problems, bad = load_checked(Path(name))
    else:
        hint = nearest(kind, [*BENCHES, *BENCHMARKS])
        raise UsageError(f"no bench {name!r}: {hint} (or give a file or folder of problems)")
    if dropped is not None:
        dropped += bad
    return problems if limit is None else problems[:limit]


def _drawn(family: str, count: int) -> list[Problem]:
    """Different held-out problems of a family; fewer where many draws give no more: some have few questions."""
    size = round(2 * count / HELD_OUT)
    most = max(_FEWEST_DRAWS, _MOST_DRAWS * size)
    while True:
        found: dict[str, Problem] = {}
        for problem in gym.generate(family, seed=GYM_SEED, size=size):
            if is_held_out(split_key(problem)):
                found.setdefault(problem.prompt, problem)
        if len(found) >= count or size >= most:
            break
        size = max(2 * size, _FEWEST_DRAWS)
    if not found:
        raise UsageError(f"bench gym:{family}: none of {size} questions is held out; take another family")
    return list(found.values())[:count]


def _generated(count: int, draw: Callable[[random.Random, str], Problem], name: str) -> list[Problem]:
    """Different held-out problems, the languages in turn; fewer of them are the first of more."""
    rng = python_rng(0, "bench", name)
    found: dict[tuple[str, str], Problem] = {}
    while len(found) < count:
        problem = draw(rng, LANGUAGES[len(found) % len(LANGUAGES)])
        if is_held_out(split_key(problem)):
            found.setdefault((problem.id, problem.language), problem)
    return list(found.values())
