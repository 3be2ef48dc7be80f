"""Problems to train and to test on, written once and shared by every later stage: no problem is on both sides.

Writes ``train.jsonl``, ``test.jsonl`` and, for the toy, ``general_train.jsonl`` and ``general_test.jsonl``. Rows of a
file of yours whose gold no answer can equal go to ``dropped_golds.jsonl``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from pydantic import StringConstraints

from aha.config import Amount, Count, Frozen
from aha.data.problems import (
    HELD_OUT,
    BadGold,
    arithmetic_problems,
    load_checked,
    save_problems,
    split_by_hash,
    spread,
    toy_sets,
)
from aha.errors import DataError
from aha.records import Problem, StageResult
from aha.stages.context import Context
from aha.tasks import gym
from aha.util.files import write_text_atomic
from aha.util.seeds import python_rng

GymFamilies = Annotated[str, StringConstraints(pattern=r"^gym:[a-z0-9_]+(,[a-z0-9_]+)*$")]


class Settings(Frozen):
    """``source``: the toy's chain sums and countdowns, generated sums and products, families of reasoning-gym
    (``gym:leg_counting,spell_backward``), or a file or folder of yours."""

    source: Literal["toy", "arithmetic"] | GymFamilies | Path
    train: Count = 20_000
    test: Count = 200
    general_train: Amount = 1_200
    general_test: Amount = 100


def run(settings: Settings, inputs: Mapping[str, Path], context: Context) -> StageResult:
    """Draw or load, split by a hash, write; of a long list the first ``train`` and ``test``, all kinds in turn."""
    rng = python_rng(context.seed, "problems")
    sets: dict[str, list[Problem]] = {}
    dropped: list[BadGold] = []
    if settings.source == "toy":
        sets = toy_sets(
            rng,
            train=settings.train,
            test=settings.test,
            general_train=settings.general_train,
            general_test=settings.general_test,
        )
    else:
        problems, dropped = _source(settings, context.seed)
        _save_dropped(context.out / "dropped_golds.jsonl", dropped)
        train, test = split_by_hash(problems)
        if not train or not test:
            raise DataError(
                f"{settings.source}: {len(train)} training and {len(test)} test problems after the split; add more rows"
            )
        sets = {"train": spread(train, rng)[: settings.train], "test": spread(test, rng)[: settings.test]}
    for name, problems in sets.items():
        save_problems(context.out / f"{name}.jsonl", problems)
    counts = {name: len(problems) for name, problems in sets.items()}
    return StageResult(counts | ({"dropped_golds": len(dropped)} if dropped else {}))


def _source(settings: Settings, seed: int) -> tuple[list[Problem], list[BadGold]]:
    if settings.source == "arithmetic":
        return arithmetic_problems(), []
    if isinstance(settings.source, str) and settings.source.startswith("gym:"):
        families = settings.source.removeprefix("gym:").split(",")
        size = (settings.train + round(settings.test / HELD_OUT)) // len(families) + 1
        return [p for family in families for p in gym.generate(family, seed=seed, size=size)], []
    return load_checked(Path(settings.source))


def _save_dropped(path: Path, dropped: Sequence[BadGold]) -> None:
    """Not where there is none: the folder of a stage without bad golds stays as it was."""
    if dropped:
        write_text_atomic(path, "".join(json.dumps(asdict(bad), ensure_ascii=False) + "\n" for bad in dropped))
