"""What a step of RL takes with everything that it needs, against the estimate; and what a machine too small is told."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from aha.data.examples import WorkedExample, tagged
from aha.errors import SettingError
from aha.model.config import ModelConfig
from aha.model.decoder import build_decoder
from aha.objective.algorithms import ALGORITHMS
from aha.records import FinishReason, Group
from aha.reward.rubric import Scored
from aha.rollout.engine import SamplingParams
from aha.rollout.native.engine import NativeEngine, sampled_itemsize
from aha.rollout.native.memory import RolloutMemory, estimate_rollout
from aha.rollout.sync import sync_weights
from aha.stages import memory, pretrain, reward_model, rl, sft
from aha.stages.context import Context
from aha.stages.learn import build_learner, learn
from aha.stages.memory import check_memory, estimate_rl, fit_memory, memory_metrics
from aha.stages.models import Policy, save_policy
from aha.stages.rollout import Rollout
from aha.testing import few_problems, measure_peak_memory, tiny_policy
from aha.train.memory import estimate_held, of_completions

PROMPTS, SAMPLES, PROMPT, COMPLETION, BUDGET, CACHE = 4, 8, 20, 40, 1_024, 1 << 30


@pytest.mark.parametrize(
    ("name", "changes", "dtype", "shape"),
    [
        ("grpo-r1", {"beta": 0.0, "minibatches": 1}, torch.float32, {}),
        ("grpo-r1", {"minibatches": 2}, torch.float32, {}),  # with a reference
        ("ppo", {}, torch.float32, {}),  # with a critic
        ("grpo-r1", {"beta": 0.0, "minibatches": 1, "halves": True}, torch.float32, {}),
        ("grpo-r1", {"minibatches": 2, "halves": True}, torch.float32, {"vocab_size": 8_000}),
        ("ppo", {}, torch.bfloat16, {"vocab_size": 8_000, "num_hidden_layers": 2}),
        ("grpo-r1", {}, torch.float32, {"vocab_size": 30_000, "num_hidden_layers": 1}),  # its pass takes most
        ("grpo-r1", {"sampler": torch.int8}, torch.float32, {"vocab_size": 30_000, "num_hidden_layers": 1}),
    ],
)
def test_two_steps_of_rl(name: str, changes: dict[str, Any], dtype: torch.dtype, shape: dict[str, int]) -> None:
    halves = changes.get("halves", False)
    sampler = changes.get("sampler", torch.bfloat16 if halves else dtype)
    algorithm = ALGORITHMS[name]
    algorithm = replace(algorithm, **{key: value for key, value in changes.items() if hasattr(algorithm, key)})
    config = ModelConfig(
        **{"vocab_size": 500, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 4} | shape,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    prompts, problem = [(p + 1,) * PROMPT for p in range(PROMPTS)], few_problems()[0]

    def step() -> None:
        policy = Policy(build_decoder(config, seed=0, dtype=dtype), config, tiny_policy().renderer)
        learner = build_learner(policy, algorithm, lr=1e-4, bf16=halves)
        engine = NativeEngine(config, cache_bytes=CACHE, dtype=sampler)
        for version in range(2):
            sync_weights(engine, policy.decoder, version=version)
            seeds = [[p * SAMPLES + g for g in range(SAMPLES)] for p in range(PROMPTS)]
            answers = engine.generate(prompts, seeds, SamplingParams(COMPLETION))
            engine.release()
            learn(
                learner,
                judged([Group(problem, ids, tuple(own)) for ids, own in zip(prompts, answers, strict=True)]),
                rng=Random(0),
                lr=1e-4,
                max_grad_norm=1.0,
                temperature=1.0,
                token_budget=BUDGET,
                max_new_tokens=COMPLETION,
                importance_cap=2.0,
            )
            learner.free_gradients()

    rows = PROMPTS * SAMPLES
    layouts, read = (
        of_completions(prompts=PROMPTS, rows=number, prompt=PROMPT, completion=COMPLETION, token_budget=BUDGET)
        for number in (-(-rows // algorithm.minibatches), rows)
    )
    rollout = estimate_rollout(
        config,
        prompts=PROMPTS,
        samples=SAMPLES,
        prompt=PROMPT,
        max_new_tokens=COMPLETION,
        cache_bytes=CACHE,
        bytes_per_number=sampled_itemsize(config, dtype=sampler, device=torch.device("cpu"), speculate=0),
        int8=sampler == torch.int8,
    )
    like = torch.empty(0, dtype=dtype)
    estimate = estimate_rl(config, layouts, read, rollout, algorithm, like=like, halves=halves)
    measured = measure_peak_memory(step)
    assert estimate == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_what_is_sampled_beside_a_step_is_counted_on_top_of_it(name: str) -> None:
    """And the weights once more: those that the sampler had when it began."""
    algorithm, config = ALGORITHMS[name], tiny_policy().config
    layouts = of_completions(prompts=4, rows=8, prompt=8, completion=32, token_budget=512)
    like, nothing, sampling = torch.empty(0), RolloutMemory(0, 0), RolloutMemory(held=3_000, working=500)
    alone = estimate_rl(config, layouts, layouts, nothing, algorithm, like=like)
    weights = estimate_held(config, bytes_per_number=4).weights
    assert estimate_rl(config, layouts, layouts, sampling, algorithm, like=like, beside=True) == alone + weights + 3_500
    assert estimate_rl(config, layouts, layouts, sampling, algorithm, like=like) == alone


def judged(groups: list[Group]) -> Rollout:
    """Every second completion is right."""
    count = PROMPTS * SAMPLES
    right = [float(i % 2) for i in range(count)]
    return Rollout(
        groups=groups,
        problems=[],
        texts=[],
        responses=[],
        scored=Scored(right, {}, [True] * count),
        right=list(right),
        finish=[FinishReason.LENGTH] * count,
        rewards_PG=torch.tensor(right, dtype=torch.float64).view(PROMPTS, SAMPLES),
        valid_PG=torch.ones(PROMPTS, SAMPLES, dtype=torch.bool),
        kept=list(range(PROMPTS)),
    )


def test_a_step_that_cannot_fit_is_refused_with_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    weights = sum(p.nbytes for p in policy.decoder.parameters())  # they are there already
    monkeypatch.setattr(memory, "available_memory", lambda: 2**30)
    check_memory(2**30 + weights, policy, lower="rows")
    with pytest.raises(SettingError, match=r"needs 3\.00 GiB .* are 1\.00 GiB .* lower rows or row_length, take a sm"):
        check_memory(3 * 2**30, policy, lower="rows or row_length")
    monkeypatch.setattr(memory, "available_memory", lambda: None)  # nobody knows
    check_memory(2**60, policy, lower="rows")


def test_as_few_layers_as_needed_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for room, number in ((100, 0), (95, 1), (81, 2), (80, 2)):
        policy = tiny_policy()
        own = sum(p.nbytes for p in policy.decoder.parameters())
        monkeypatch.setattr(memory, "available_memory", lambda room=room: room)
        fitted = fit_memory(lambda n, own=own: own + 100 - 10 * n, policy, lower="rows")
        assert fitted == (own + 100 - 10 * number, number)
        assert ["forward" in vars(layer) for layer in policy.decoder.body_layers()] == [i < number for i in range(2)]
    monkeypatch.setattr(memory, "available_memory", lambda: 0)
    with pytest.raises(SettingError, match="lower rows"):
        fit_memory(lambda n: 2**30 - n, tiny_policy(), lower="rows")


def test_every_stage_that_trains_refuses_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_policy(tiny_policy(), tmp_path / "init" / "model")
    problems = few_problems()[:2]
    general = [p for p in few_problems() if p.task == "general"]
    monkeypatch.setattr(memory, "available_memory", lambda: 0)
    monkeypatch.setattr(rl, "load_problems", lambda path: problems)
    monkeypatch.setattr(reward_model, "load_problems", lambda path: general)
    example = WorkedExample(problems[0].prompt, tagged("", problems[0].answer), "test")
    monkeypatch.setattr(sft, "load_examples", lambda path: [example])
    inputs = {"data": tmp_path, "init": tmp_path / "init", "problems": tmp_path}
    stages = (
        (rl, rl.Settings(), "token_budget, max_new_tokens, prompts or samples"),
        (pretrain, pretrain.Settings(), "rows or row_length"),
        (sft, sft.Settings(), "rows or row_length"),
        (reward_model, reward_model.Settings(reads="answer"), "batch"),
    )
    for stage, settings, lower in stages:
        out = tmp_path / stage.__name__
        out.mkdir()
        with pytest.raises(SettingError, match=f"GiB at its peak .* lower {re.escape(lower)}, take"):
            stage.run(settings, inputs, Context(out, name="stage", seed=0, run_seed=0))
        assert not list(out.iterdir())


def test_the_first_row_says_what_was_estimated() -> None:
    cpu = torch.device("cpu")
    assert memory_metrics(1, 123, cpu) == {"memory_estimate": 123.0}
    assert memory_metrics(1, 123, cpu, recomputed=2) == {"memory_estimate": 123.0, "recomputed_layers": 2.0}
    assert memory_metrics(2, 123, cpu, recomputed=2) == {}  # what a step takes is measured on a GPU alone
