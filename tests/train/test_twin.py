"""Training in BF16 under float32 master weights."""

from __future__ import annotations

from dataclasses import replace

import torch

from aha.model.config import ModelConfig
from aha.model.decoder import Decoder, build_decoder
from aha.objective.algorithms import ALGORITHMS
from aha.train.batch import PolicyRow, collate_policy
from aha.train.optimizer import build_adamw
from aha.train.step import policy_step
from aha.train.twin import build_twin, refresh_twin

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


def update(decoder: Decoder, optimizer: torch.optim.Optimizer, budget: int) -> dict[str, float]:
    batches = collate_policy(ROWS, weights=[0.25] * len(ROWS), token_budget=budget)
    return policy_step(
        decoder, optimizer, batches, algorithm=GRPO, num_sequences=len(ROWS), lr=1e-3, max_grad_norm=1e9,
        importance_cap=2.0,
    )  # fmt: skip


def gradients(budget: int, *, twin: bool) -> torch.Tensor:
    master = build_decoder(CONFIG, seed=0)
    with torch.no_grad():
        for parameter in master.parameters():  # exact in BF16, so that only the arithmetic differs
            parameter.copy_(parameter.bfloat16())
    optimizer = torch.optim.SGD(master.parameters(), lr=1e-3)
    update(build_twin(master, optimizer) if twin else master, optimizer, budget)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in master.parameters())
    return torch.cat([p.grad.flatten() for p in master.parameters() if p.grad is not None])


def test_gradients_are_those_of_float32_but_for_rounding_however_they_are_split() -> None:
    exact = gradients(1_000, twin=False)
    for budget in (1_000, 8):
        assert (gradients(budget, twin=True) - exact).norm() < 0.04 * exact.norm()


def test_the_twin_follows_its_master_and_small_steps_are_not_lost() -> None:
    master = build_decoder(CONFIG, seed=0)
    start = master.head_weight.detach().clone()
    optimizer = build_adamw(master, lr=1e-3, weight_decay=0.0)
    twin = build_twin(master, optimizer)
    assert twin.head_weight is twin.model.embed_tokens.weight  # still tied
    for _ in range(3):
        for group in optimizer.param_groups:
            group["lr"] = 1e-6
        batches = collate_policy(ROWS, weights=[0.25] * len(ROWS), token_budget=100)
        policy_step(
            twin, optimizer, batches, algorithm=GRPO, num_sequences=len(ROWS), lr=1e-6, max_grad_norm=1.0,
            importance_cap=2.0,
        )  # fmt: skip
    moved = (master.head_weight - start).abs()
    assert 2e-6 < moved.max() < 4e-6  # far less than BF16 resolves, three times
    for own, other in zip(twin.parameters(), master.parameters(), strict=True):
        assert own.grad is None
        assert torch.equal(own, other.bfloat16())


def test_refresh() -> None:
    master = build_decoder(CONFIG, seed=0)
    twin = build_twin(master, build_adamw(master, lr=1e-3))
    with torch.no_grad():
        master.head_weight.fill_(0.5)
    refresh_twin(twin, master)
    assert (twin.head_weight == 0.5).all()
