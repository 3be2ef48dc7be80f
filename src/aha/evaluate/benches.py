"""Benches to evaluate on: generated held-out problems, the same for every model, and problem files of your own."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from aha.data.problems import (
    HELD_OUT,
    BadGold,
    arithmetic_problems,
    is_held_out,
    load_checked,
    split_by_hash,
    split_key,
    spread,
)
from aha.errors import UsageError, nearest
from aha.records import Problem
from aha.tasks import chain, countdown, gym
from aha.tasks.words import LANGUAGES
from aha.util.seeds import python_rng

NUM_PROBLEMS = 200
GYM_SEED = 0


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


def load_bench(name: str, *, limit: int | None, dropped: list[BadGold] | None = None) -> list[Problem]:
    """The problems of a bench by name (200 of them), of a family of reasoning-gym (``gym:leg_counting``) or of a
    JSON-lines file; the first ``limit`` of them where given.

    Generated problems are on the held-out side of the split by hash, so no stage of a run has trained on them. Rows of
    a file whose gold no answer can equal are left out and put into ``dropped``.
    """
    count = NUM_PROBLEMS if limit is None else limit
    if name in BENCHES:
        return BENCHES[name](count)
    if name.startswith("gym:"):
        drawn = gym.generate(name.removeprefix("gym:"), seed=GYM_SEED, size=round(2 * count / HELD_OUT))
        return [problem for problem in drawn if is_held_out(split_key(problem))][:count]
    if not name.endswith((".jsonl", ".jsonl.gz")):
        raise UsageError(f"no bench {name!r}: {nearest(name, BENCHES)} (or give a .jsonl file of problems)")
    problems, bad = load_checked(Path(name))
    if dropped is not None:
        dropped += bad
    return problems if limit is None else problems[:limit]


def _generated(count: int, draw: Callable[[random.Random, str], Problem], name: str) -> list[Problem]:
    """Different held-out problems, the languages in turn; fewer of them are the first of more."""
    rng = python_rng(0, "bench", name)
    found: dict[tuple[str, str], Problem] = {}
    while len(found) < count:
        problem = draw(rng, LANGUAGES[len(found) % len(LANGUAGES)])
        if is_held_out(split_key(problem)):
            found.setdefault((problem.id, problem.language), problem)
    return list(found.values())
