"""Training in BF16 with float32 weights in two halves."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import nn

from aha.model import kernels
from aha.model.config import ModelConfig
from aha.model.decoder import Decoder, build_decoder
from aha.objective.algorithms import ALGORITHMS
from aha.train.batch import PolicyRow, collate_policy
from aha.train.halves import join, narrow, split, widen
from aha.train.optimizer import build_adamw, clip_grad_norm, gradient_norm
from aha.train.policy_step import policy_step

CONFIG = ModelConfig(
    model_type="qwen2",
    vocab_size=50,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
ROWS = [PolicyRow((3, 4, 5 + p), (7, 8 + g, 9, 10), 1.0 - g, (-4.0,) * 4) for p in range(2) for g in range(3)]
GRPO = replace(ALGORITHMS["grpo"], beta=0.0)


def update(decoder: Decoder, optimizer: torch.optim.Optimizer, budget: int, lr: float = 1e-3) -> dict[str, float]:
    batches = collate_policy(ROWS, weights=[0.25] * len(ROWS), token_budget=budget)
    return policy_step(
        decoder, optimizer, batches, algorithm=GRPO, num_sequences=len(ROWS), lr=lr, max_grad_norm=1e9,
        importance_cap=2.0,
    )  # fmt: skip


def test_every_float_is_its_two_halves() -> None:
    """By hand: 1 + 2^-8 lies between the BF16 numbers 1 and 1 + 2^-7, as near to both, and goes to the larger."""
    tie = torch.tensor([1 + 2**-8, -1 - 2**-8])
    upper, lower = split(tie)
    assert upper.tolist() == [1 + 2**-7, -1 - 2**-7] and lower.tolist() == [-(2**15)] * 2
    bits = torch.randint(-(2**31), 2**31, (100_000,), dtype=torch.int64, generator=torch.Generator().manual_seed(0))
    weights = torch.cat((bits.to(torch.int32).view(torch.float32), torch.tensor([0.0, -0.0, torch.inf, 3.4e38])))
    weights = weights[~weights.isnan()]
    upper, lower = split(weights)
    assert torch.equal(join(upper, lower).view(torch.int32), weights.view(torch.int32))
    finite = weights.abs() < 3e38
    assert ((upper.float() - weights).abs() <= (weights.bfloat16().float() - weights).abs())[finite].all()


def gradients(budget: int, *, halves: bool) -> torch.Tensor:
    decoder = build_decoder(CONFIG, seed=0)
    with torch.no_grad():
        for parameter in decoder.parameters():  # exact in BF16, so that only the arithmetic differs
            parameter.copy_(parameter.bfloat16())
    optimizer = build_adamw(decoder, lr=1e-3, lower=narrow(decoder) if halves else None)
    update(decoder, optimizer, budget)
    found = [p.grad for p in decoder.parameters() if p.grad is not None]
    expected = torch.bfloat16 if halves and budget == 1_000 else torch.float32  # from the second micro-batch on
    assert len(found) == len(list(decoder.parameters())) and {grad.dtype for grad in found} == {expected}
    return torch.cat([grad.flatten().float() for grad in found])


def test_gradients_are_those_of_float32_but_for_rounding_however_they_are_split() -> None:
    exact = gradients(1_000, halves=False)
    for budget in (1_000, 8):
        assert (gradients(budget, halves=True) - exact).norm() < 0.04 * exact.norm()


def test_small_steps_are_not_lost_and_float32_comes_back() -> None:
    decoder = build_decoder(CONFIG, seed=0)
    start = decoder.head_weight.detach().clone()
    optimizer = build_adamw(decoder, lr=1e-3, weight_decay=0.0, lower=narrow(decoder))
    assert decoder.head_weight is decoder.model.embed_tokens.weight  # still tied
    assert torch.equal(decoder.head_weight, split(start)[0])
    for _ in range(3):
        update(decoder, optimizer, 100, lr=1e-6)
    now = decoder.head_weight.detach().clone()
    widen(decoder, optimizer)
    moved = (decoder.head_weight - start).abs()
    assert 2e-6 < moved.max() < 4e-6  # far less than BF16 resolves, three times
    assert torch.equal(split(decoder.head_weight.detach())[0], now)
    assert {p.dtype for p in decoder.parameters()} == {torch.float32}
    update(decoder, build_adamw(decoder, lr=1e-3), 100)  # as any float32 model


def test_what_does_not_learn_is_rounded() -> None:
    decoder = build_decoder(CONFIG, seed=0)
    decoder.model.norm.weight.requires_grad_(False).fill_(1 + 2**-10)
    optimizer = build_adamw(decoder, lr=1e-3, lower=narrow(decoder))
    widen(decoder, optimizer)
    assert (decoder.model.norm.weight == 1.0).all()


@pytest.mark.parametrize("moments", ["float32", "bf16"])
@pytest.mark.parametrize("compiled", [True, False])
def test_updates_are_those_of_float32(
    moments: Literal["float32", "bf16"], compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's AdamW on whole weights; with BF16 moments, of which each loses 2^-9, a first step is still the same."""
    monkeypatch.setattr(kernels, "available", kernels.available if compiled else lambda: False)
    whole, halved = nn.Linear(3, 70, bias=True), nn.Linear(3, 70, bias=True)
    halved.load_state_dict(whole.state_dict())
    exact = build_adamw(whole, lr=1e-2)
    optimizer = build_adamw(halved, lr=1e-2, moments=moments, lower=narrow(halved))
    generator = torch.Generator().manual_seed(1)
    for _ in range(1 if moments == "bf16" else 5):
        for one, other in zip(whole.parameters(), halved.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=generator).bfloat16().float()
            other.grad = one.grad.bfloat16()
        exact.step()
        optimizer.step()
    widen(halved, optimizer)
    for one, other in zip(whole.parameters(), halved.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-7)


def test_norm_and_clip_of_bf16_gradients() -> None:
    """300 gradients of 1 have the norm 17.32, where sums in BF16 end at 16; cut to 1.0 each is 2^-4 x 0.92."""
    linear = nn.Linear(300, 1, bias=False)
    optimizer = build_adamw(linear, lr=1e-3, lower=narrow(linear))
    linear.weight.grad = torch.ones(1, 300, dtype=torch.bfloat16)
    norm = gradient_norm(optimizer)
    assert norm == pytest.approx(300**0.5, rel=1e-6)
    clip_grad_norm(optimizer, 1.0, norm=norm)
    assert linear.weight.grad.dtype == torch.bfloat16
    assert linear.weight.grad.float().mean().item() == pytest.approx(300**-0.5, rel=2**-8)


@pytest.mark.parametrize("compiled", [True, False])
def test_an_update_of_nothing_keeps_every_bit_of_a_weight_half_way_between_two(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(kernels, "available", lambda: False)
    bits = torch.tensor([0x3F808000, 0x3F818000, -0x407F8000, 0x3F807FFF, 0x3F808001], dtype=torch.int32)
    linear = nn.Linear(5, 1, bias=False)
    linear.weight.data = bits.view(torch.float32).view(1, 5)
    optimizer = build_adamw(linear, lr=0.0, weight_decay=0.0, lower=narrow(linear))
    linear.weight.grad = torch.ones(1, 5)
    optimizer.step()
    widen(linear, optimizer)
    assert linear.weight.data.view(torch.int32).flatten().tolist() == bits.tolist()
