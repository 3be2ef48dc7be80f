"""Preferences of yours made ready: read, split, and their lengths balanced (R1v2 B.2).

Writes ``pairs_train.jsonl`` and ``pairs_test.jsonl``, or ``labelled_train.jsonl`` and ``labelled_test.jsonl``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aha.config import Amount, Count, Frozen, NotNegative
from aha.data.judgements import GAP, balanced
from aha.data.preference_files import load_preference_file, save_labelled, save_pairs
from aha.data.preferences import Labelled, Pair
from aha.errors import DataError
from aha.records import StageResult
from aha.stages.context import Context
from aha.util.seeds import python_rng


class Settings(Frozen):
    """``file`` is read by data/preference_files.py. Judged pairs need a gap over ``gap``; ``balance``
    keeps training pairs in which the longer and the shorter text are chosen equally often. At most ``train`` and
    ``test`` rows are taken, drawn at random (0: all), of texts of at most ``longest`` characters, prompt included. Of
    a longer prompt the last ``prompt_tail`` characters stay (0: all): in a dialogue the end matters."""

    file: Path
    gap: NotNegative = GAP
    balance: bool = True
    train: Amount = 0
    test: Amount = 0
    longest: Count = 100_000
    prompt_tail: Amount = 0


def run(settings: Settings, inputs: Mapping[str, Path], context: Context) -> StageResult:
    """The test rows stay as they are: what a model is worth is asked of the file as it comes."""
    found = load_preference_file(settings.file, gap=settings.gap)
    rng = python_rng(context.seed, "preferences")
    metrics: dict[str, Any] = {"dropped": dict(found.dropped)}
    test = [_cut(row, settings.prompt_tail) for row in found.test]
    tested = {row.problem.prompt for row in test}
    train = [_cut(row, settings.prompt_tail) for row in found.train]
    train = [row for row in train if row.problem.prompt not in tested]
    if len(train) < len(found.train):
        metrics["dropped"]["the end of the prompt is tested"] = len(found.train) - len(train)
    for name, rows, most in (("train", train, settings.train), ("test", test, settings.test)):
        kept: list[Any] = [row for row in rows if _longest(row) <= settings.longest]
        if len(kept) < len(rows):
            metrics["dropped"][f"too long ({name})"] = len(rows) - len(kept)
        pairs = [row for row in kept if isinstance(row, Pair)]
        if pairs and name == "train":
            metrics["lengths_before"] = _lengths(pairs)
            if settings.balance:
                kept = [pairs[i] for i in balanced([len(p.chosen) - len(p.rejected) for p in pairs], rng)]
                metrics["dropped"]["lengths balanced"] = len(pairs) - len(kept)
        if not kept:
            raise DataError(f"{settings.file}: no {name} row is left: {metrics['dropped']}; raise longest or add rows")
        if 0 < most < len(kept):
            kept = rng.sample(kept, most)
        if isinstance(kept[0], Labelled):
            save_labelled(context.out / f"labelled_{name}.jsonl", kept)
        else:
            save_pairs(context.out / f"pairs_{name}.jsonl", kept)
            metrics[f"lengths_{name}"] = _lengths(kept)
        metrics[name] = len(kept)
    return StageResult(metrics)


def _cut(row: Pair | Labelled, tail: int) -> Pair | Labelled:
    return replace(row, problem=replace(row.problem, prompt=row.problem.prompt[-tail:])) if tail else row


def _longest(row: Pair | Labelled) -> int:
    texts = (row.text,) if isinstance(row, Labelled) else (row.chosen, row.rejected)
    return len(row.problem.prompt) + max(map(len, texts))


def _lengths(pairs: Sequence[Pair]) -> dict[str, float]:
    """Mean characters of chosen and rejected texts, and the share of pairs whose chosen text is the longer one."""
    count = len(pairs)
    return {
        "chosen": sum(len(p.chosen) for p in pairs) / count,
        "rejected": sum(len(p.rejected) for p in pairs) / count,
        "longer_chosen": sum(len(p.chosen) > len(p.rejected) for p in pairs) / count,
    }
