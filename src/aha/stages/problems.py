"""Problems to train and to test on, written once and shared by every later stage: no problem is on both sides.

Writes ``train.jsonl``, ``test.jsonl`` and, for the toy, ``general_train.jsonl`` and ``general_test.jsonl``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from aha.config import Amount, Count, Frozen
from aha.data.problems import arithmetic_problems, load_problems, save_problems, split_by_hash, spread, toy_sets
from aha.errors import DataError
from aha.records import StageResult
from aha.stages.context import Context
from aha.util.seeds import python_rng


class Settings(Frozen):
    """``source``: the toy's chain sums and countdowns, generated sums and products, or a JSON-lines file of yours."""

    source: Literal["toy", "arithmetic"] | Path
    train: Count = 20_000
    test: Count = 200
    general_train: Amount = 1_200
    general_test: Amount = 100


def run(settings: Settings, inputs: Mapping[str, Path], context: Context) -> StageResult:
    """Draw or load, split by a hash, write; of a long list the first ``train`` and ``test``, all kinds in turn."""
    rng = python_rng(context.seed, "problems")
    sets = {}
    if settings.source == "toy":
        sets = toy_sets(
            rng,
            train=settings.train,
            test=settings.test,
            general_train=settings.general_train,
            general_test=settings.general_test,
        )
    else:
        problems = arithmetic_problems() if settings.source == "arithmetic" else load_problems(Path(settings.source))
        train, test = split_by_hash(problems)
        if not train or not test:
            raise DataError(
                f"{settings.source}: {len(train)} training and {len(test)} test problems after the split; add more rows"
            )
        sets = {"train": spread(train, rng)[: settings.train], "test": spread(test, rng)[: settings.test]}
    for name, problems in sets.items():
        save_problems(context.out / f"{name}.jsonl", problems)
    return StageResult({name: len(problems) for name, problems in sets.items()})
