"""The stage labels, trains and says how well, continues where it was stopped; its model is a scorer."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tiny_rl import SETTINGS as RL
from tiny_rl import StopsAt, run_stage, without_time, write_inputs

from aha.data.problems import save_problems
from aha.errors import CheckpointError, DataError, SettingError, VerifierError
from aha.model.heads import ProcessRewardModel, save_process_reward_model
from aha.records import Completion, FinishReason, Problem
from aha.rollout.engine import SamplingParams
from aha.search.path import Path as TokenPath
from aha.stages import examples, memory, process_reward, rl
from aha.stages.context import Interrupted
from aha.stages.models import load_policy, save_policy
from aha.stages.search import load_scorer
from aha.tasks import chain
from aha.testing import byte_tokenizer, tiny_policy
from aha.util.files import read_json, read_jsonl

SETTINGS = process_reward.Settings(
    problems=6, held_out=2, samples=2, each=0, rollouts=2, max_new_tokens=8, chunk=4, epochs=2, batch=4
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    at = tmp_path_factory.mktemp("process_reward")
    save_policy(tiny_policy(), at / "policy" / "model")
    problems = [chain.generate(Random(i), language="en") for i in range(6)]
    for name in ("train", "test"):
        save_problems(at / "problems" / f"{name}.jsonl", problems)
    return {"policy": at / "policy", "problems": at / "problems"}


def metrics(stage: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(stage / "result.json")["metrics"]
    return found


def test_a_process_reward_model_is_trained_from_rollouts(inputs: dict[str, Path], tmp_path: Path) -> None:
    out = run_stage(process_reward.run, SETTINGS, inputs, tmp_path / "a")
    found, rows = metrics(out), read_jsonl(out / "metrics.jsonl")
    assert found["texts"] == 12 and found["steps"] >= 12
    assert set(found["accuracy"]) == {"value", "low", "high"} and "accuracy_wrong" in found
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6] and rows[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert rows[0]["memory_estimate"] > 0
    policy = tiny_policy()
    (scores,) = load_scorer(out, policy)([TokenPath(policy.renderer.prompt("compute 1 #1 + 2"), (5, 6, 7))])
    assert scores and all(0 < score < 1 for score in scores)


@pytest.mark.parametrize("step", [2, 4])
def test_a_stopped_stage_continues_with_the_same_bits(step: int, inputs: dict[str, Path], tmp_path: Path) -> None:
    """Stopped after a chunk of labels (the third call that may save is the last of them), and in training."""
    whole = run_stage(process_reward.run, SETTINGS, inputs, tmp_path / "whole")
    out = tmp_path / "stopped"
    out.mkdir()
    with pytest.raises(Interrupted):
        run_stage(process_reward.run, SETTINGS, inputs, out, context=StopsAt(out, step=step, lost=1))
    kept = {path: path.stat().st_mtime_ns for path in (out / "labels").iterdir()}
    assert len(kept) == 3
    run_stage(process_reward.run, SETTINGS, inputs, out)
    assert {path: path.stat().st_mtime_ns for path in (out / "labels").iterdir()} == kept  # nothing is asked again
    weights = [(path / "model" / "model.safetensors").read_bytes() for path in (whole, out)]
    assert weights[0] == weights[1] and metrics(whole) == metrics(out)
    rows = [without_time(read_jsonl(path / "metrics.jsonl")) for path in (whole, out)]
    assert rows[0] == rows[1]


class _Guesses:
    """Answers every problem with 7, with 8, and twice with 7 again."""

    policy_version = 0
    sampled_tokens = 0

    def __init__(self) -> None:
        self.words = tiny_policy().tokenizer

    def load_weights(self, decoder: Any, version: int) -> None:
        raise NotImplementedError

    def generate(
        self, prompts: Any, seeds: Any, params: SamplingParams, *, limits: Any = None, done: Any = None
    ) -> list[list[Completion]]:
        said = [self.words.encode(f"<think> ok . </think> <answer> {n} </answer>") for n in (7, 8, 7, 7)]
        texts = [Completion((*ids, self.words.eos_id), (0.0,) * (len(ids) + 1), FinishReason.END, 0) for ids in said]
        return [[texts[g % 4] for g in range(len(own))] for own in seeds]


def test_of_a_problem_as_many_different_right_as_wrong_texts_are_labelled() -> None:
    policy = tiny_policy()
    problems = [chain.generate(Random(i), language="en") for i in range(300)]
    seven = [p for p in problems if p.answer == "7"][:2]
    twelve = [p for p in problems if p.answer == "12"][:1]
    settings = process_reward.Settings(samples=4, each=3, labels="outcome")
    texts, exact = process_reward.label_problems(_Guesses(), policy, [*seven, *twelve], settings, seed=0)
    assert [text.labels for text in texts] == [(1.0,), (0.0,)] * 2 and not exact  # 12 is never right: left out
    assert [len(text.places) for text in texts] == [1] * 4
    every = settings.model_copy(update={"each": 0})
    assert len(process_reward.label_problems(_Guesses(), policy, [*seven, *twelve], every, seed=0)[0]) == 12


def test_outcomes_alone_and_files(inputs: dict[str, Path], tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"labels": "outcome", "problems": 2, "held_out": 0, "epochs": 1})
    assert metrics(run_stage(process_reward.run, settings, inputs, tmp_path / "orm")) == {"texts": 4, "steps": 4}
    path = tmp_path / "steps.jsonl"
    row = {"steps": ["first 1 #1 + 2 = 3 .", "so 3"], "labels": [1, None]}
    path.write_text("".join(json.dumps({**row, "problem": f"compute {i} #1 + 2"}) + "\n" for i in range(20)))
    of_file = process_reward.Settings(file=path, batch=4, epochs=1)
    found = metrics(run_stage(process_reward.run, of_file, inputs, tmp_path / "file"))
    assert (found["texts"], found["steps"]) == (18, 18) and "accuracy" in found  # two of twenty problems held out
    with pytest.raises(DataError, match="fewer than one batch"):
        run_stage(process_reward.run, of_file.model_copy(update={"batch": 19}), inputs, tmp_path / "few")
    path.write_text(json.dumps({"problem": "compute 1 #1 + 2", "steps": ["1 + 2 " * 900], "labels": [1]}) + "\n")
    with pytest.raises(DataError, match="none of 1 texts fits the model's"):
        run_stage(process_reward.run, of_file, inputs, tmp_path / "long")


def test_a_verifier_that_fails_labels_nothing_wrong() -> None:
    policy, broken = tiny_policy(), Problem("c", "compute 5", "5", "countdown")  # without numbers and target
    with pytest.raises(VerifierError, match="the verifier failed on 1 of 1"):
        process_reward._judge(policy, [broken], [policy.tokenizer.encode("<think> 1 </think> <answer> 5 </answer>")])


def test_a_tree_search_gives_examples_and_a_scorer_trains(inputs: dict[str, Path], tmp_path: Path) -> None:
    """The two training methods that DeepSeek-R1 left out: the untrained policy is wrong, so clean examples stand in."""
    scorer = run_stage(process_reward.run, SETTINGS, inputs, tmp_path / "scorer")
    both = {**inputs, "init": inputs["policy"], "scorer": scorer}
    sampled = examples.Settings(problems=3, simulations=4, clean=2, max_new_tokens=8)
    found = metrics(run_stage(examples.run, sampled, both, tmp_path / "examples"))
    assert found["examples"] == 2 and 3 <= found["samples"]["wrong"] <= 3 * 4 * 4 + 3
    with pytest.raises(SettingError, match="needs an input 'scorer'"):
        run_stage(examples.run, sampled, inputs, tmp_path / "none")
    given = write_inputs(tmp_path / "given")
    policy = load_policy(given["init"] / "model")
    save_process_reward_model(ProcessRewardModel(policy.decoder), policy.config, tmp_path / "half" / "model")
    policy.tokenizer.save(tmp_path / "half" / "model")
    both, few = {**given, "scorer": tmp_path / "half"}, RL.model_copy(update={"algorithm": "grpo-process", "steps": 1})
    out = run_stage(rl.run, few, both, tmp_path / "rl")
    assert len(read_jsonl(out / "metrics.jsonl")) == 1
    with pytest.raises(SettingError, match="reads no scorer"):
        run_stage(rl.run, few.model_copy(update={"algorithm": "grpo"}), both, tmp_path / "outcome")


def test_what_cannot_be_is_refused(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="none was answered both right and wrong"):
        run_stage(process_reward.run, SETTINGS.model_copy(update={"each": 1}), inputs, tmp_path / "a")
    policy = tiny_policy()
    with pytest.raises(CheckpointError, match="no process reward model"):
        load_scorer(inputs["policy"], policy)
    save_process_reward_model(ProcessRewardModel(policy.decoder), policy.config, tmp_path / "other")
    byte_tokenizer().save(tmp_path / "other")
    with pytest.raises(CheckpointError, match="is not that of the policy"):
        load_scorer(tmp_path / "other", policy)
    monkeypatch.setattr(memory, "available_memory", lambda: 0)
    with pytest.raises(SettingError, match="lower batch"):
        run_stage(process_reward.run, SETTINGS, inputs, tmp_path / "b")
