"""A model with latent attention and experts goes through the same stages as any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from aha.config import Frozen
from aha.model.moe import Router
from aha.stages import pretrain, problems, rl, tokenizer
from aha.stages.context import Context
from aha.stages.models import load_policy
from aha.stages.rewarding import Weights
from aha.train.balance import Balance
from aha.util.files import read_jsonl

SHAPE = pretrain.Shape(
    model_type="deepseek_v3", hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
    q_lora_rank=8, kv_lora_rank=6, qk_nope_head_dim=6, qk_rope_head_dim=4, v_head_dim=8, n_routed_experts=8,
    n_shared_experts=1, num_experts_per_tok=2, moe_intermediate_size=8, first_k_dense_replace=1, n_group=4,
    topk_group=2, routed_scaling_factor=2.5,
)  # fmt: skip


def run_stage(run: Callable[..., Any], settings: Frozen, inputs: Mapping[str, Path], out: Path) -> Path:
    torch.set_num_threads(1)
    out.mkdir(parents=True)
    run(settings, inputs, Context(out, name=out.name, seed=0, run_seed=0))
    return out


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("experts")
    sizes = {"train": 30, "test": 6, "general_train": 12, "general_test": 6}
    run_stage(tokenizer.run, tokenizer.Settings(documents=400), {}, root / "tokenizer")
    run_stage(problems.run, problems.Settings(source="toy", **sizes), {}, root / "problems")
    settings = pretrain.Settings(shape=SHAPE, steps=6, rows=4, row_length=160, lr=2e-2, warmup=1)
    return run_stage(pretrain.run, settings, {"tokenizer": root / "tokenizer"}, root / "base")


def biases(stage: Path) -> torch.Tensor:
    modules = load_policy(stage / "model").decoder.modules()
    return torch.stack([m.e_score_correction_bias for m in modules if isinstance(m, Router)])


def test_pretraining_moves_the_bias_by_its_speed_and_logs_the_load(base: Path) -> None:
    rows = read_jsonl(base / "metrics.jsonl")
    assert all(row["max_vio"] >= 0 and 0.5 < row["balance"] < 8 for row in rows)
    assert rows[-1]["loss"] < rows[0]["loss"]
    steps = biases(base) / Balance().speed
    assert torch.allclose(steps, steps.round(), atol=1e-3) and 0 < steps.abs().max() <= 6


def test_rl_trains_it_and_the_sampler_agrees(base: Path, tmp_path: Path) -> None:
    settings = rl.Settings(
        steps=2, prompts=3, samples=3, minibatches=2, max_new_tokens=160, warmup=1, weights=Weights(language=1.0),
        balance=Balance(speed=0.01),
    )  # fmt: skip
    zero = run_stage(rl.run, settings, {"init": base, "problems": base.parent / "problems"}, tmp_path / "r1_zero")
    for row in read_jsonl(zero / "metrics.jsonl"):
        assert 0 < row["logprob_gap"] < 1e-5 and row["mismatch_kl"] < 1e-6
        assert row["max_vio"] > 0
    assert not torch.equal(biases(zero), biases(base))
