"""How often the intervals of an evaluation hold the truth, where the truth is known.

    python -m benchmarks.coverage [--out docs]

Each row simulates ``TRIALS`` evaluations: problems are drawn from a pool of ``POOL`` whose rates of being solved follow
a Beta distribution, samples from the problems. A wrong sample says one of ``WRONG`` answers. The truth is the mean over
the whole pool, by closed forms: p, 1 - (1 - p)^k, and the chance that a vote of k is right, over all ways in which k
samples can fall on the answers. The second model of a pair solves a problem with p^0.8, which is a few points more.
Prints every share, writes ``measured/coverage.json`` into the folder OUT. Some minutes of one core.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aha.evaluate.bootstrap import bootstrap_interval
from aha.evaluate.estimators import Estimate, cons_values, pass_values, share_interval
from aha.evaluate.paired import compare_paired
from aha.util.files import write_json_atomic
from benchmarks.setting import versions

TRIALS, POOL, WRONG = 1_000, 2_000, 2
RESAMPLES = 2_000
BETTER = 0.8

Floats = NDArray[np.float64]


class Setting(NamedTuple):
    """``like`` says of which benchmark it has the size and the difficulty, about."""

    like: str
    problems: int
    samples: int
    a: float
    b: float

    @property
    def pool(self) -> Floats:
        return np.random.default_rng(0).beta(self.a, self.b, POOL)


SETTINGS = (
    Setting("AIME, a strong model", 30, 64, 1.0, 0.6),
    Setting("AIME, a weak model", 30, 64, 0.4, 1.6),
    Setting("AIME, hardly solved", 30, 16, 0.2, 3.0),
    Setting("AIME, few samples", 30, 8, 0.5, 0.8),
    Setting("AMC", 40, 16, 1.0, 1.0),
    Setting("alike problems", 60, 4, 60.0, 40.0),
    Setting("r1_tiny", 200, 16, 4.0, 1.0),
    Setting("MATH-500", 500, 4, 2.0, 0.5),
)


def draw(rng: np.random.Generator, pool: Floats, setting: Setting) -> tuple[Floats, NDArray[np.int64]]:
    """The rates of the problems of one evaluation, and its samples' answers ``[P, K]``: 0 is right."""
    rates_P = rng.choice(pool, setting.problems)
    right_PK = rng.random((setting.problems, setting.samples)) < rates_P[:, None]
    return rates_P, np.where(right_PK, 0, rng.integers(1, WRONG + 1, right_PK.shape))


def vote_right(rates: Floats, k: int) -> Floats:
    """The chance that a majority of k samples is right, ties falling to each of those tied alike."""
    found = np.zeros_like(rates)
    for right, *wrong in falls(k, 1 + WRONG):
        if right == max(right, *wrong):
            ways = math.factorial(k) // math.prod(map(math.factorial, (right, *wrong)))
            share = ways / (1 + wrong.count(right)) / WRONG ** (k - right)
            found += share * rates**right * (1 - rates) ** (k - right)
    return found


def falls(k: int, answers: int) -> Iterator[tuple[int, ...]]:
    """All ways in which k samples can fall on so many answers."""
    if answers == 1:
        yield (k,)
        return
    for first in range(k + 1):
        yield from ((first, *rest) for rest in falls(k - first, answers - 1))


def covered(setting: Setting, truth: float, estimate: Callable[[np.random.Generator, int], Estimate]) -> float:
    rng, held = np.random.default_rng(1), 0
    for trial in range(TRIALS):
        found = estimate(rng, trial)
        held += found.low <= truth <= found.high
    return held / TRIALS


def rows_of(setting: Setting) -> Iterator[tuple[str, float, float]]:
    """What is estimated, its truth, and the share of intervals that hold it."""
    pool, k = setting.pool, min(4, setting.samples)

    def interval(values: list[float], trial: int) -> Estimate:
        return bootstrap_interval(values, seed=trial, resamples=RESAMPLES)

    def pass_1(rng: np.random.Generator, trial: int) -> Estimate:
        return interval((draw(rng, pool, setting)[1] == 0).mean(axis=1).tolist(), trial)

    def pass_k(rng: np.random.Generator, trial: int) -> Estimate:
        return interval(pass_values((draw(rng, pool, setting)[1] == 0).tolist(), k), trial)

    def cons_k(rng: np.random.Generator, trial: int) -> Estimate:
        said = draw(rng, pool, setting)[1]
        return interval(cons_values(said.tolist(), (said == 0).tolist(), k), trial)

    def pair(rng: np.random.Generator, trial: int) -> Estimate:
        rates_P, said = draw(rng, pool, setting)
        better = rng.binomial(setting.samples, rates_P**BETTER) / setting.samples
        return compare_paired((said == 0).mean(axis=1).tolist(), better.tolist(), seed=trial).difference

    for name, truth, estimate in (
        ("pass@1", pool, pass_1),
        (f"pass@{k}", 1 - (1 - pool) ** k, pass_k),
        (f"cons@{k}", vote_right(pool, k), cons_k),
        ("difference", pool**BETTER - pool, pair),
    ):
        yield name, float(truth.mean()), covered(setting, float(truth.mean()), estimate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    out = parser.parse_args().out
    rows = []
    for setting in SETTINGS:
        for name, truth, share in rows_of(setting):
            rows.append({**setting._asdict(), "of": name, "truth": truth, "covered": share})
            sure = share_interval(round(share * TRIALS), TRIALS)
            shown = f"{truth:.3f} held by {share:.1%} ({sure.low:.1%} to {sure.high:.1%})"
            print(f"{setting.like}: {name} {shown}", flush=True)
    found = {"trials": TRIALS, "rows": rows, "versions": versions("numpy")}
    write_json_atomic(out / "measured" / "coverage.json", found)


if __name__ == "__main__":
    main()
