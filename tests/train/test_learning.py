"""Does the whole step learn? A bandit of one token, against the control whose reward is a coin."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch

from aha.model.config import ModelConfig
from aha.model.decoder import build_decoder
from aha.objective.advantages import group_advantages
from aha.objective.algorithms import ALGORITHMS
from aha.objective.weights import token_weights
from aha.train.batch import PolicyRow, collate_policy
from aha.train.optimizer import build_adamw
from aha.train.policy_step import policy_step
from aha.train.rng import torch_rng

V, P, G, STEPS = 8, 4, 8, 25

GRPO = dataclasses.replace(ALGORITHMS["grpo-r1"], beta=0.0)


def share_right(seed: int, *, random_reward: bool) -> tuple[float, float]:
    """Probability of answering prompt p with token p + 3, before and after training."""
    config = ModelConfig(
        vocab_size=V, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1,
    )
    decoder = build_decoder(config, seed=seed)
    with torch.no_grad():  # answers start out equally likely
        for parameter in decoder.parameters():
            parameter.mul_(0.1 if parameter.dim() > 1 else 1.0)
    optimizer = build_adamw(decoder, lr=0.0, weight_decay=0.0)
    prompts = torch.arange(P)[:, None]
    rng, coin = torch_rng(seed, "sample"), random.Random(seed)

    def table() -> torch.Tensor:
        with torch.no_grad():
            return decoder.logits(decoder(prompts))[:, -1].log_softmax(-1)

    start = table().exp()[torch.arange(P), torch.arange(P) + 3].mean().item()
    for _ in range(STEPS):
        logp_PV = table()
        answers_PG = torch.multinomial(logp_PV.exp(), G, replacement=True, generator=rng)
        right_PG = (answers_PG == torch.arange(P)[:, None] + 3).float()
        if random_reward:
            right_PG = torch.tensor([[float(coin.random() < 0.5) for _ in range(G)] for _ in range(P)])
        adv_PG = group_advantages(right_PG, torch.ones(P, G, dtype=torch.bool))
        rows = [
            PolicyRow((p,), (int(a),), adv_PG[p, g].item(), (logp_PV[p, a].item(),))
            for p in range(P)
            for g, a in enumerate(answers_PG[p])
            if adv_PG[p, g] != 0
        ]
        batches = collate_policy(rows, weights=token_weights([1] * len(rows), "sequence"), token_budget=1000)
        policy_step(
            decoder, optimizer, batches, algorithm=GRPO, num_sequences=P * G, lr=0.02, max_grad_norm=1.0
        )
    return start, table().exp()[torch.arange(P), torch.arange(P) + 3].mean().item()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_reward_rises_and_a_random_reward_teaches_nothing(seed: int) -> None:
    start, learned = share_right(seed, random_reward=False)
    _, control = share_right(seed, random_reward=True)
    assert start == pytest.approx(1 / V, abs=0.03)
    assert learned > 0.9
    assert control < 0.5
