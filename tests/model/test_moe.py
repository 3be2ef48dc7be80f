from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from aha.model.config import ModelConfig
from aha.model.decoder import build_decoder
from aha.model.moe import MixtureOfExperts, Router, choose_experts, run_experts

CONFIG = ModelConfig(
    model_type="deepseek_v3", vocab_size=30, hidden_size=12, intermediate_size=20, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=2, q_lora_rank=8, kv_lora_rank=6, qk_nope_head_dim=4, qk_rope_head_dim=4,
    v_head_dim=5, n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=3, moe_intermediate_size=7, n_group=4,
    topk_group=2, first_k_dense_replace=1, routed_scaling_factor=2.5,
)  # fmt: skip


def mixture(seed: int = 0, dtype: torch.dtype = torch.float32) -> MixtureOfExperts:
    found = build_decoder(CONFIG, seed=seed, dtype=dtype).model.layers[1].mlp
    assert isinstance(found, MixtureOfExperts)
    return found


def loop_over_tokens(x: Tensor, weights: Tensor, experts: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    rows = []
    for token, own_weights, own_experts in zip(x, weights, experts, strict=True):
        row = torch.zeros_like(token)
        for weight, expert in zip(own_weights, own_experts, strict=True):
            gate, up = (gate_up[expert] @ token).chunk(2)
            row = row + weight * (down[expert] @ (F.silu(gate) * up))
        rows.append(row)
    return torch.stack(rows)


@pytest.mark.parametrize(("tokens", "experts", "chosen"), [(1, 4, 1), (9, 8, 3), (40, 5, 5), (3, 16, 2)])
def test_grouped_equals_a_loop_with_gradients(tokens: int, experts: int, chosen: int) -> None:
    generator = torch.Generator().manual_seed(tokens)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    x, gate_up, down, weights = draw(tokens, 6), draw(experts, 8, 6), draw(experts, 6, 4), draw(tokens, chosen)
    picked = torch.rand(tokens, experts, generator=generator).topk(chosen).indices
    ours, theirs = (f(x, weights, picked, gate_up, down) for f in (run_experts, loop_over_tokens))
    assert torch.allclose(ours, theirs)
    inputs = (x, gate_up, down, weights)
    mine, oracle = (torch.autograd.grad(result.cos().sum(), inputs) for result in (ours, theirs))
    assert all(torch.allclose(a, b) for a, b in zip(mine, oracle, strict=True))


def test_no_token_is_dropped_when_all_want_one_expert() -> None:
    moe = mixture()
    with torch.no_grad():
        moe.gate.weight.zero_()
        moe.gate.e_score_correction_bias.copy_(torch.tensor([5.0, 4.0, 3.0, 0, 0, 0, 0, 0]))
        x = torch.randn(50, 12, generator=torch.Generator().manual_seed(0))
        weights, experts = moe.gate(x)
        assert experts.sort(1).values.tolist() == [[0, 1, 2]] * 50
        # all affinities are 1/2 whatever the bias: each of 3 experts weighs a third of 2.5
        assert torch.allclose(weights, torch.full((50, 3), 2.5 / 3))
        made = moe.experts(x, weights, experts)
        assert torch.allclose(made, loop_over_tokens(x, weights, experts, moe.experts.gate_up_proj,
                                                     moe.experts.down_proj), atol=1e-6)


def test_groups_limit_the_choice_also_below_zero() -> None:
    # groups (0, 1) (2, 3) (4, 5): best two sum to -0.3, -0.8, -0.7; a mask of 0 would have chosen what is masked
    scores = torch.tensor([[-0.1, -0.2, -0.05, -0.75, -0.3, -0.4]])
    assert choose_experts(scores, 3, 3, 2, best=2).tolist() == [[0, 1, 4]]
    # by the best one: -0.1, -0.05, -0.3
    assert choose_experts(scores, 3, 3, 2, best=1).tolist() == [[2, 0, 1]]
    assert choose_experts(scores, 3, 1, 1, best=2).tolist() == [[2, 0, 1]]


def test_the_bias_chooses_and_does_not_weigh_and_has_no_gradient() -> None:
    moe = mixture(dtype=torch.float64)
    x = torch.randn(20, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moe.gate.e_score_correction_bias.copy_(torch.linspace(-1, 1, 8))
    weights, experts = moe.gate(x)
    scores = torch.sigmoid(x @ moe.gate.weight.T).gather(1, experts)
    assert torch.allclose(weights, scores / scores.sum(1, keepdim=True) * 2.5)
    assert not torch.equal(experts, choose_experts(torch.sigmoid(x @ moe.gate.weight.T), 3, 4, 2, best=2))
    assert not moe.gate.e_score_correction_bias.requires_grad
    assert "mlp.gate.e_score_correction_bias" not in dict(moe.named_parameters())


def test_the_bias_stays_in_float32_and_the_affinities_too() -> None:
    moe = mixture()
    moe.gate.e_score_correction_bias.fill_(0.1234567)
    before = moe.gate.e_score_correction_bias.clone()
    moe.to(torch.bfloat16)
    assert moe.gate.weight.dtype == torch.bfloat16
    assert torch.equal(moe.gate.e_score_correction_bias, before)
    weights, _ = moe.gate(torch.ones(2, 12, dtype=torch.bfloat16))
    assert weights.dtype == torch.float32
    assert moe(torch.ones(1, 2, 12, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_a_router_remembers_passes_with_gradients_alone_and_can_be_copied() -> None:
    moe = mixture()
    gate: Router = moe.gate
    with torch.no_grad():
        moe(torch.ones(1, 2, 12))
    assert gate.routed is None
    moe(torch.ones(1, 5, 12))
    assert gate.routed is not None and gate.routed.experts_MK.shape == (5, 3)
    assert copy.deepcopy(moe).gate.routed is None
