"""The stage labels, trains and says how well; its model is a scorer."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from aha.data.problems import save_problems
from aha.errors import CheckpointError, DataError
from aha.search.path import Path as TokenPath
from aha.stages import process_reward
from aha.stages.context import Context
from aha.stages.models import save_policy
from aha.stages.search import load_scorer
from aha.tasks import chain
from aha.testing import tiny_policy


def working_in(folder: Path) -> Context:
    folder.mkdir()
    return Context(folder, name="scorer", seed=3, run_seed=0)


def test_a_process_reward_model_is_trained_from_rollouts_and_from_a_file(tmp_path: Path) -> None:
    policy = tiny_policy()
    save_policy(policy, tmp_path / "policy" / "model")
    problems = [chain.generate(Random(i), language="en") for i in range(6)]
    for name in ("train", "test"):
        save_problems(tmp_path / "problems" / f"{name}.jsonl", problems)
    inputs = {"policy": tmp_path / "policy", "problems": tmp_path / "problems"}
    results = []
    for name in ("a", "b"):
        settings = process_reward.Settings(
            problems=6, held_out=2, samples=2, rollouts=2, max_new_tokens=8, chunk=4, epochs=2, batch=4
        )
        context = working_in(tmp_path / name)
        results.append(process_reward.run(settings, inputs, context).metrics)
    assert results[0] == results[1] and results[0]["texts"] == 12 and results[0]["steps"] >= 12
    assert set(results[0]["accuracy"]) == {"value", "low", "high"}
    rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6] and rows[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    scorer = load_scorer(tmp_path / "a", policy)
    (scores,) = scorer([TokenPath(policy.renderer.prompt("compute 1 #1 + 2"), (5, 6, 7))])
    assert scores and all(0 < score < 1 for score in scores)
    with pytest.raises(CheckpointError, match="no process reward model"):
        load_scorer(tmp_path / "policy", policy)


def test_outcomes_alone_and_files(tmp_path: Path) -> None:
    policy = tiny_policy()
    save_policy(policy, tmp_path / "policy" / "model")
    save_problems(tmp_path / "problems" / "train.jsonl", [chain.generate(Random(1), language="en")])
    inputs = {"policy": tmp_path / "policy", "problems": tmp_path / "problems"}
    context = working_in(tmp_path / "orm")
    options = {"problems": 1, "held_out": 0, "samples": 4, "max_new_tokens": 8, "epochs": 1}
    settings = process_reward.Settings(labels="outcome", batch=4, **options)
    found = process_reward.run(settings, inputs, context).metrics
    assert found == {"texts": 4, "steps": 4}
    path = tmp_path / "steps.jsonl"
    row = {"problem": "compute 1 #1 + 2", "steps": ["first 1 #1 + 2 = 3 .", "so 3"], "labels": [1, None]}
    path.write_text(4 * (json.dumps(row) + "\n"))
    context = working_in(tmp_path / "file")
    found = process_reward.run(process_reward.Settings(file=path, batch=4, epochs=1), inputs, context).metrics
    assert found == {"texts": 4, "steps": 4}
    with pytest.raises(DataError, match="fewer than one batch"):
        process_reward.run(process_reward.Settings(file=path, batch=8), inputs, context)
