"""Random DeepSeek shapes of every sort, there and back: transformers reads ours, we read theirs, logits are equal."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from aha.model.config import ModelConfig
from aha.model.folder import load_model, save_model


def draw_config(seed: int) -> ModelConfig:
    rng = random.Random(seed)
    model_type = rng.choice(["deepseek_v2", "deepseek_v3"])
    groups = rng.choice([1, 2, 3])
    per_group = rng.randint(2, 5)
    allowed = rng.randint(1, groups)
    scaling = None
    if rng.random() < 0.5:
        scaling = {"rope_type": "yarn", "factor": rng.choice([2.0, 5.5]), "original_max_position_embeddings": 8,
                   "mscale": rng.choice([0.7, 1.0]), "mscale_all_dim": rng.choice([0.5, 1.0])}  # fmt: skip
    heads = rng.randint(1, 5)
    even = 2 if model_type == "deepseek_v2" else 1  # transformers' deepseek_v2 rotates even places alone
    return ModelConfig(
        model_type=model_type, vocab_size=rng.randint(20, 50), hidden_size=heads * rng.randint(3, 9),
        intermediate_size=rng.randint(5, 30), num_hidden_layers=rng.randint(1, 3), num_attention_heads=heads,
        num_key_value_heads=heads, q_lora_rank=rng.choice([None, rng.randint(3, 20)]),
        kv_lora_rank=even * rng.randint(3, 15), qk_nope_head_dim=even * rng.randint(1, 9),
        qk_rope_head_dim=2 * rng.randint(1, 5), v_head_dim=rng.randint(1, 15),
        n_routed_experts=groups * per_group, n_shared_experts=rng.randint(1, 3),
        num_experts_per_tok=rng.randint(1, allowed * per_group), moe_intermediate_size=rng.randint(2, 17),
        first_k_dense_replace=rng.randint(0, 2), n_group=groups, topk_group=allowed,
        routed_scaling_factor=rng.choice([1.0, 2.5]), norm_topk_prob=model_type == "deepseek_v3" and rng.random() < 0.7,
        rope_interleave=model_type == "deepseek_v2" or rng.random() < 0.5, rope_scaling=scaling,
        tie_word_embeddings=rng.random() < 0.5, max_position_embeddings=64,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_logits_equal_transformers_from_the_same_folder(
    seed: int, build_reference: Callable[[ModelConfig], Any], tmp_path: Path
) -> None:
    config = draw_config(seed)
    reference = build_reference(config)
    reference.save_pretrained(tmp_path / "theirs")
    decoder, loaded = load_model(tmp_path / "theirs")
    assert loaded == config
    ids = torch.randint(0, config.vocab_size, (2, 30), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        ours, theirs = decoder.logits(decoder(ids)), reference(ids).logits
        assert torch.allclose(ours, theirs, atol=1e-5), (ours - theirs).abs().max()
        save_model(decoder, config, tmp_path / "ours", shard_bytes=3_000)
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", experts_implementation="eager")
        assert torch.allclose(again(ids).logits, ours, atol=1e-5)
