"""Latent attention: its two forms against each other, and the arithmetic of YaRN inside it."""

from __future__ import annotations

import math

import pytest
import torch

from aha.model.attention.mla import (
    MultiHeadLatentAttention,
    absorb_query,
    attend_to_latents,
    expand_read,
    score_gain,
    split_up_projection,
)
from aha.model.attention.plan import plan_causal
from aha.model.config import ModelConfig
from aha.model.rope import compute_frequencies, compute_rotation, pairs_to_halves, rotate

V3 = {
    "model_type": "deepseek_v3", "vocab_size": 30, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 1,
    "num_attention_heads": 3, "num_key_value_heads": 3, "kv_lora_rank": 11, "qk_nope_head_dim": 5,
    "qk_rope_head_dim": 8, "v_head_dim": 7,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 1.0,
        "mscale_all_dim": 1.0}  # fmt: skip


@pytest.mark.parametrize("changes", [{}, {"q_lora_rank": 9, "rope_scaling": YARN}, {"rope_interleave": False}])
def test_absorbed_equals_expanded(changes: dict[str, object]) -> None:
    config = ModelConfig(**{**V3, **changes})
    torch.manual_seed(0)
    layer = MultiHeadLatentAttention(config).double()
    T, H, R, C = 6, 5, 8, 11
    x = torch.randn(1, T, 24, dtype=torch.float64)
    rotation = compute_rotation(torch.arange(T)[None], head_dim=8, theta=1e4, scaling=config.rope_scaling,
                                dtype=torch.float64)
    with torch.no_grad():
        expected = layer(x, rotation, plan_causal(x, rows=x.shape[0], tokens=T, group=1))
        query = layer.q_b_proj(layer.q_a_layernorm(layer.q_a_proj(x))) if config.q_lora_rank else layer.q_proj(x)
        q, q_rope = query.view(T, 3, H + R).split((H, R), -1)
        latent, k_rope = layer.kv_a_proj_with_mqa(x).split((C, R), -1)
        key_map, value_map = split_up_projection(layer.kv_b_proj.weight, 3, 7)

        def turn(rope: torch.Tensor) -> torch.Tensor:
            return rotate(pairs_to_halves(rope) if config.rope_interleave else rope, rotation)[0]

        cache = torch.cat((layer.kv_a_layernorm(latent)[0], turn(k_rope.view(1, T, 1, R))[:, 0]), -1)
        assert cache.shape == (T, C + R)  # all that is kept
        hidden = torch.full((T, T), -torch.inf, dtype=torch.float64).triu(1)
        absorbed = torch.cat((absorb_query(q, key_map), turn(q_rope.view(1, T, 3, R))), -1)
        # every position of the one sequence is a row of its own that sees the same cache
        read = attend_to_latents(absorbed, cache.expand(T, -1, -1), hidden[:, None], latent=C,
                                 scale=(H + R) ** -0.5 * score_gain(config))
        found = layer.o_proj(expand_read(read, value_map).flatten(1))
    assert torch.allclose(found, expected[0], atol=1e-6)


def test_yarn_of_deepseek_v3() -> None:
    config = ModelConfig(**{**V3, "qk_rope_head_dim": 64, "rope_scaling": YARN})
    assert score_gain(config) == pytest.approx((0.1 * math.log(40) + 1) ** 2) == pytest.approx(1.87385, abs=1e-5)
    plain = compute_frequencies(64, 1e4)
    yarn = compute_frequencies(64, 1e4, config.rope_scaling)
    ratio = plain / yarn
    assert torch.allclose(ratio[:11], torch.ones(11)) and torch.allclose(ratio[23:], torch.full((9,), 40.0))
    kept = (1 / ratio[10:24] - 1 / 40) / (1 - 1 / 40)  # a linear ramp from pair 10 to pair 23
    assert torch.allclose(kept, torch.linspace(1, 0, 14), atol=1e-5)
    cos, _ = compute_rotation(torch.zeros(1), head_dim=64, theta=1e4, scaling=config.rope_scaling)
    assert cos.eq(1).all()  # mscale and mscale_all_dim cancel
