"""Verdicts a second on mathematical answers: ours, in processes that can be killed, and math-verify called directly."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from aha.records import Status
from aha.tasks import mathematics
from benchmarks.setting import processor_name, row, time_in_turn, versions

NUM_PLAIN, NUM_SYMBOLIC = 2_000, 300

Pair = tuple[str, str]


def measure(*, repeat: int, peers: bool, dtype: str, skew: bool, threads: int) -> dict[str, Any]:
    """``dtype`` and ``skew`` say nothing here; ``threads`` is the number of our processes. Half of the answers are
    right; no pair comes twice, in any run."""
    mathematics.POOL.size = threads
    kinds = {"plain": (plain_pairs, NUM_PLAIN), "symbolic": (symbolic_pairs, NUM_SYMBOLIC)}
    judges = {"aha": judge_ours} | ({"math-verify": judge_theirs} if peers else {})
    sides = {
        f"{judge}, {kind}": build_run(judges[judge], *kinds[kind], seed=seed)
        for seed, (judge, kind) in enumerate((judge, kind) for kind in kinds for judge in judges)
    }
    found = time_in_turn(sides, repeat=repeat)
    rows = []
    for name, side in found.items():
        _, count = kinds[name.split(", ")[1]]
        rows.append(row(name, [count / taken.wall for taken in side.runs], unit="verdicts/s", peak=side.peak))
    return {
        "benchmark": "verdicts",
        "setting": {"processes": threads, "repeat": repeat, "processor": processor_name()},
        "rows": rows,
        "ratios": {},
        "notes": ["plain: numbers, decided without algebra; symbolic: polynomials and roots, each judged by sympy"],
        "versions": versions("math-verify", "sympy"),
    }


def build_run(
    judge: Callable[[Sequence[Pair]], list[bool]],
    draw: Callable[[random.Random, int], list[Pair]],
    count: int,
    *,
    seed: int,
) -> Callable[[], None]:
    """Judges ``count`` new pairs at every call, of which every second one is right."""
    rng = random.Random(seed)

    def run() -> None:
        assert judge(draw(rng, count)) == [i % 2 == 0 for i in range(count)]

    return run


def plain_pairs(rng: random.Random, count: int) -> list[Pair]:
    """Integers and fractions in two spellings."""
    pairs = []
    for i in range(count):
        a, b = rng.randrange(10**9), rng.randrange(2, 99)
        gold, same = (str(a), f"{a:,}") if i % 4 < 2 else (f"{a}/{b}", rf"\frac{{{a}}}{{{b}}}")
        pairs.append((gold, same if i % 2 == 0 else str(a + 1)))
    return pairs


def symbolic_pairs(rng: random.Random, count: int) -> list[Pair]:
    """Products of two sums multiplied out, and roots with a square taken out."""
    pairs = []
    for i in range(count):
        a, b, c = (rng.randrange(2, 999) for _ in range(3))
        if i % 4 < 2:
            gold, same, other = f"(x+{a})({b}x+{c})", f"{b}x^2+{a * b + c}x+{a * c}", f"{b}x^2+{a * b + c}x+{a * c + 1}"
        else:
            gold, same, other = rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b}}}", rf"\sqrt{{{a * a * b + 1}}}"
        pairs.append((gold, same if i % 2 == 0 else other))
    return pairs


def judge_ours(pairs: Sequence[Pair]) -> list[bool]:
    return [verdict.status is Status.RIGHT for verdict in mathematics.verify_many(pairs)]


def judge_theirs(pairs: Sequence[Pair]) -> list[bool]:
    """In this process, with math-verify's own alarms."""
    from math_verify import parse, verify

    return [verify(parse(f"${gold}$"), parse(f"${answer}$")) for gold, answer in pairs]
