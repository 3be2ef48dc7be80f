"""A run folder with made-up but plausible figures, written as a recipe's stages would write it."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from aha.records import Sample

WriteRun = Callable[..., Path]

TINY: dict[str, tuple[str, dict[str, str]]] = {
    "tokenizer": ("tokenizer", {}),
    "problems": ("problems", {}),
    "base": ("pretrain", {"tokenizer": "tokenizer"}),
    "r1_zero": ("rl", {"init": "base", "problems": "problems"}),
    "random_reward": ("rl", {"init": "base", "problems": "problems"}),
    "dev1": ("sft", {"init": "base", "data": "cold_start"}),
    "dev2": ("rl", {"init": "dev1", "problems": "problems"}),
    "dev3": ("sft", {"init": "base", "data": "rejection"}),
    "r1": ("rl", {"init": "dev3", "problems": "problems", "helpful": "helpful"}),
    "student_base": ("pretrain", {"tokenizer": "tokenizer"}),
    "student_rl": ("rl", {"init": "student_base", "problems": "problems"}),
    "student_distilled": ("sft", {"init": "student_base", "data": "rejection"}),
    "cold_start": ("examples", {"policy": "r1_zero", "problems": "problems"}),
    "rejection": ("examples", {"policy": "dev2", "problems": "problems"}),
    "helpful": ("reward_model", {"init": "dev3", "problems": "problems"}),
}
REAL: dict[str, tuple[str, dict[str, str]]] = {
    "untrained": ("foundation", {}),
    "arithmetic": ("problems", {}),
    "cold_start": ("sft", {"init": "untrained", "data": "arithmetic"}),
    "r1_real": ("rl", {"init": "cold_start", "problems": "arithmetic"}),
}
SCORES = {  # pass@1, cons@16, pass@16, format, language, length, general, preference
    "base": (0.062, 0.353, 0.607, 0.212, 0.530, 24.0, 0.28, 0.31),
    "r1_zero": (0.824, 0.933, 0.980, 0.996, 0.502, 34.1, 0.10, 0.22),
    "random_reward": (0.071, 0.340, 0.600, 0.230, 0.525, 23.0, 0.27, 0.30),
    "dev1": (0.315, 0.520, 0.967, 0.977, 0.973, 39.0, 0.23, 0.35),
    "dev2": (0.815, 0.920, 0.967, 0.993, 0.996, 34.0, 0.08, 0.33),
    "dev3": (0.896, 0.973, 0.993, 0.995, 0.997, 34.0, 0.72, 0.55),
    "r1": (0.921, 0.980, 1.000, 0.997, 0.996, 34.2, 0.81, 0.83),
    "student_base": (0.045, 0.120, 0.380, 0.221, 0.425, 27.0, 0.20, 0.25),
    "student_rl": (0.264, 0.347, 0.613, 0.994, 0.485, 25.0, 0.05, 0.20),
    "student_distilled": (0.604, 0.747, 0.893, 0.993, 0.996, 33.0, 0.55, 0.60),
    "untrained": (0.010, 0.012, 0.050, 0.000, 0.990, 60.0, 0.50, 0.50),
    "cold_start": (0.210, 0.300, 0.500, 0.930, 0.990, 45.0, 0.48, 0.50),
    "r1_real": (0.480, 0.530, 0.640, 0.990, 0.990, 52.0, 0.47, 0.52),
}
NAMES = ("pass@1", "cons@16", "pass@16", "format", "language", "length", "general", "preference")
RECIPES = {"r1_tiny": TINY, "r1_real": REAL}


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """``write_run(recipe="r1_tiny", seed=0, finished=None)`` -> run folder; ``finished`` names the stages that have
    run."""

    def write(**arguments: Any) -> Path:
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        write_fake_run(folder, **arguments)
        return folder

    return write


def write_fake_run(
    folder: Path,
    *,
    recipe: str = "r1_tiny",
    seed: int = 0,
    finished: Sequence[str] | None = None,
    running: str | None = None,
    slow: float = 1.0,
) -> None:
    """Writes a run folder. ``finished`` (default: all) have results, ``running`` has half its steps, ``slow`` scales
    times."""
    rng = random.Random(seed)
    graph = RECIPES[recipe]
    models = [name for name, (kind, _) in graph.items() if name in SCORES and kind != "examples"]
    stages = [
        {"name": name, "kind": kind, "settings": _settings(kind), "inputs": inputs}
        for name, (kind, inputs) in graph.items()
    ]
    for name in models:
        inputs = {"model": name, "problems": "problems" if recipe == "r1_tiny" else "arithmetic"}
        stages.append({"name": f"{name}_eval", "kind": "evaluate", "settings": {"samples": 16}, "inputs": inputs})
    folder.mkdir(parents=True)
    _write(folder / "recipe.json", {"recipe": recipe, "version": 1, "arguments": {"seed": seed}, "stages": stages})
    ledger: dict[str, Any] = {}
    clock = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
    for stage in _in_order(stages):
        name, kind = stage["name"], stage["kind"]
        seconds = slow * round(
            rng.uniform(0.8, 1.2) * {"pretrain": 230, "rl": 120, "sft": 14, "evaluate": 4}.get(kind, 5), 2
        )
        if finished is not None and name not in finished:
            if name == running:
                _write_steps(folder / f"{name}.partial", name, kind, rng, fraction=0.5)
                ledger[name] = {"status": "partial", "fingerprint": "0" * 16, "seconds": 0.0, "finished": None}
            continue
        clock += timedelta(seconds=seconds)
        metrics: dict[str, Any] = {"steps": 80}
        if kind == "evaluate":
            metrics = {**_evaluation(name.removesuffix("_eval")), "seconds": seconds}
            _write_samples(
                folder / name / "samples" / "evaluation.parquet", name.removesuffix("_eval"), 0, rng, group=2
            )
        _write(folder / name / "result.json", {"metrics": metrics})
        _write_steps(folder / name, name, kind, rng)
        ledger[name] = {"status": "done", "fingerprint": "0" * 16, "seconds": seconds, "finished": clock.isoformat()}
    _write(folder / "ledger.json", {"stages": ledger})


def _in_order(stages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    placed: list[dict[str, Any]] = []
    waiting = list(stages)
    while waiting:
        done = {stage["name"] for stage in placed}
        ready = next(stage for stage in waiting if set(stage["inputs"].values()) <= done)
        placed.append(ready)
        waiting.remove(ready)
    return placed


def _settings(kind: str) -> dict[str, Any]:
    if kind == "rl":
        return {
            "steps": 80,
            "prompts": 16,
            "lr": 5e-4,
            "algorithm": "grpo-r1",
            "weights": {"accuracy": 1.0, "format": 0.2},
        }
    return {"epochs": 2, "lr": 1e-3} if kind == "sft" else {}


def _estimate(value: float, spread: float, most: float = 1.0) -> dict[str, float]:
    return {"value": value, "low": max(0.0, value - spread), "high": min(most, value + spread)}


def _evaluation(model: str) -> dict[str, Any]:
    scores = dict(zip(NAMES, SCORES[model], strict=True))
    metrics: dict[str, Any] = {"model": model}
    for name, value in scores.items():
        spread = 0.8 if name == "length" else 0.012 + 0.09 * math.sqrt(value * (1 - value))
        metrics[name] = _estimate(value, spread, 1e9 if name == "length" else 1.0)
    single, vote = scores["pass@1"], scores["cons@16"]
    metrics["votes"] = [
        {"k": k, **_estimate(single + (vote - single) * math.log2(k) / 4, 0.03)} for k in (1, 2, 4, 8, 16)
    ]
    metrics["by_task"] = {
        task: {
            "pass@1": _estimate(min(1.0, single * factor), 0.04),
            "length": _estimate(scores["length"] * factor, 1.0, 1e9),
        }
        for task, factor in (("chain", 1.05), ("countdown", 0.9))
    }
    return metrics


def _write_steps(folder: Path, name: str, kind: str, rng: random.Random, fraction: float = 1.0) -> None:
    if kind not in {"rl", "sft", "pretrain"}:
        return
    folder.mkdir(parents=True, exist_ok=True)
    steps = int((80 if kind == "rl" else 40) * fraction)
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, steps + 1):
            row = _rl_row(name, step, rng) if kind == "rl" else {"loss": 2 / step, "lr": 1e-3, "grad_norm": 0.5}
            file.write(json.dumps({"step": step, **row, "seconds": 1.5}) + "\n")
        if fraction < 1:
            file.write('{"step": 41, "accu')  # a line torn by a crash
    if kind == "rl":
        for step in (1, steps):
            _write_samples(folder / "samples" / f"step_{step:06d}.parquet", name, step, rng, group=4)


def _rl_row(name: str, step: int, rng: random.Random) -> dict[str, Any]:
    learns = name != "random_reward"
    start = {"r1_zero": 0.06, "random_reward": 0.06, "dev2": 0.35, "r1": 0.88, "student_rl": 0.04}.get(name, 0.2)
    end = SCORES[name][0]
    reached = 1 - math.exp(-step / 18)
    accuracy = max(0.0, min(1.0, start + (end - start) * reached * learns + rng.gauss(0, 0.03)))
    dip = 10 * math.exp(-(((step - 6) / 4) ** 2)) if name in {"r1_zero", "student_rl"} else 0
    length = 24 - dip + (10 * reached if learns else 0) + rng.gauss(0, 0.8)
    row = {
        "accuracy": accuracy,
        "reward": accuracy + 0.2,
        "format": min(1.0, 0.3 + 0.7 * reached),
        "language": 0.5 if name == "r1_zero" else 0.99,
        "length": length,
        "length_max": 80,
        "truncated": 0.05 * (1 - reached),
        "entropy": 0.04 + 0.36 * (1 - reached),
        "kl": 0.9 * reached,
        "mismatch_kl": abs(rng.gauss(0, 2e-7)),
        "logprob_gap": abs(rng.gauss(2e-7, 2e-8)),
        "max_logprob_gap": abs(rng.gauss(4e-6, 2e-6)),
        "ess": 1 - abs(rng.gauss(0, 1e-6)),
        "grad_norm": 0.4,
        "lr": 5e-4,
        "reflection": 0.48 * (1 - reached) + abs(rng.gauss(0, 0.01)),
        "groups_kept": 0.8,
        "tokens": 8000,
        "tokens_per_second": 5000.0,
        "reward/accuracy": accuracy,
        "reward/format": min(1.0, 0.3 + 0.7 * reached),
    }
    if name in {"dev2", "r1"}:
        row["reward/language"] = 0.99
    for task, factor in (("chain", 1.1), ("countdown", 0.7)):
        row[f"accuracy/{task}"] = min(1.0, accuracy * factor)
        row[f"length/{task}"] = length * factor
    if step == 3:
        row["kl"] = float("nan")
    return row


def _write_samples(path: Path, model: str, step: int, rng: random.Random, *, group: int) -> None:
    rows: list[Mapping[str, Any]] = []
    for number in range(4):
        language = ("en", "zh")[number % 2]
        terms = [rng.randint(1, 9) for _ in range(4)]
        if step == 0:
            terms = [number + 2, 5, 3, number + 1]
        for member in range(group):
            right = (member + number) % 2 == 0 if step else rng.random() < SCORES[model][0]
            total = sum(terms) + (0 if right else 1)
            words = ["<think>", *f"{terms[0]} + {terms[1]} = {terms[0] + terms[1]} . so".split(), "</think>"]
            words += ["<answer>", str(total), "</answer>"]
            sample = Sample(
                step=step,
                problem_id=f"chain/{number}/{terms[0]}",
                task=("chain", "countdown")[number // 2],
                language=language,
                prompt=f"Question : what is {' + '.join(map(str, terms))} ? <b>",
                completion=" ".join(words),
                answer=str(sum(terms)),
                finish_reason="end",
                reward=1.2 if right else 0.2,
                rewards={"accuracy": float(right), "format": 1.0},
                tokens=tuple(words),
                advantages=((1.0 if right else -1.0),) * len(words) if step else (),
            )
            row = {**asdict(sample), "rewards": json.dumps(sample.rewards)}
            rows.append({**row, "tokens": list(sample.tokens), "advantages": list(sample.advantages)})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def _write(path: Path, entry: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entry))
