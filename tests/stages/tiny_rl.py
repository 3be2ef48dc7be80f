"""An RL stage at its smallest, and how a stage is run, stopped and continued: shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from aha.config import Frozen
from aha.data.corpus import TAGS
from aha.data.problems import save_problems
from aha.records import Problem, StageResult
from aha.stages import rl
from aha.stages.context import Context, Interrupted
from aha.stages.models import save_policy
from aha.stages.rewarding import Weights
from aha.testing import tiny_policy
from aha.tokens.tokenizer import train_word_tokenizer
from aha.util.files import read_jsonl, write_json_atomic

TEMPLATE = "{question} ="
# Tags are counted and language is a share, so that even a model that knows nothing has groups with a difference.
SETTINGS = rl.Settings(
    steps=2,
    prompts=4,
    samples=3,
    minibatches=2,
    max_new_tokens=40,
    warmup=1,
    lr=1e-2,
    samples_every=1,
    weights=Weights(tags=1.0),
)


def sums() -> list[Problem]:
    """``1 + 2``: every sum of two digits that is one digit."""
    return [
        Problem(f"sum/{a}+{b}", f"{a} + {b}", str(a + b), "number", meta={"level": 1 + a % 3})
        for a in range(1, 9)
        for b in range(1, 10 - a)
    ]


def write_inputs(
    folder: Path, *, template: str = TEMPLATE, problems: Sequence[Problem] | None = None
) -> dict[str, Path]:
    """An untrained policy that knows digits, signs and tags, and problems for it."""
    tokenizer = train_word_tokenizer([" ".join([*map(str, range(10)), "+", "="])], special_tokens=TAGS)
    save_policy(tiny_policy(tokenizer=tokenizer, template=template), folder / "init" / "model")
    save_problems(folder / "problems" / "train.jsonl", sums() if problems is None else problems)
    return {"init": folder / "init", "problems": folder / "problems"}


def run_stage(
    run: Callable[..., StageResult],
    settings: Frozen,
    inputs: Mapping[str, Path],
    out: Path,
    *,
    seed: int = 0,
    context: Context | None = None,
) -> Path:
    """What a worker does: run in ``out`` and write the result."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    result = run(settings, inputs, context or Context(out, name=out.name, seed=seed, run_seed=0))
    write_json_atomic(out / "result.json", {"metrics": result.metrics})
    return out


class StopsAt(Context):
    """Saves after ``step`` and stops, after ``lost`` more steps whose work is lost as in a crash."""

    def __init__(self, out: Path, step: int, lost: int) -> None:
        super().__init__(out, name=out.name, seed=0, run_seed=0)
        self.step, self.lost, self.calls = step, lost, 0

    def save_due(self) -> bool:
        self.calls += 1
        return self.calls == self.step

    def progress(self, step: int, total: int, **fields: float) -> None:
        if self.calls == self.step + self.lost:
            raise Interrupted


def plant(monkeypatch: pytest.MonkeyPatch, *steps: int, **values: float) -> None:
    """The metrics of ``steps`` say ``values``, whatever was measured."""
    measured = rl.step_metrics

    def fault(step: int, *arguments: Any, **named: Any) -> dict[str, float]:
        return measured(step, *arguments, **named) | (values if step in steps else {})

    monkeypatch.setattr(rl, "step_metrics", fault)


def rows_of(stage: Path) -> list[dict[str, Any]]:
    return read_jsonl(stage / "metrics.jsonl")


def without_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if "second" not in k} for row in rows]
