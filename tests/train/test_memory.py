from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_training import tiny_config

from aha.model.config import ModelConfig
from aha.model.decoder import build_decoder
from aha.objective.logprob import token_logprobs
from aha.train.memory import estimate_training_memory
from aha.train.optimizer import build_adamw


def test_weights_gradients_and_moments_are_what_torch_holds() -> None:
    config = tiny_config()
    decoder = build_decoder(config, seed=0)
    optimizer = build_adamw(decoder, lr=1e-3)
    decoder(torch.tensor([[1, 2]])).sum().backward()
    optimizer.step()
    estimate = estimate_training_memory(config, token_budget=10, longest=5, reference=True)
    assert estimate.weights == estimate.reference == sum(p.numel() * 4 for p in decoder.parameters())
    assert estimate.gradients == sum(p.grad.numel() * 4 for p in decoder.parameters() if p.grad is not None)
    moments = [s[k] for s in optimizer.state.values() for k in ("exp_avg", "exp_avg_sq")]
    assert estimate.moments == sum(m.numel() * 4 for m in moments)
    assert estimate.total == 5 * estimate.weights + estimate.activations


@pytest.mark.parametrize(("rows", "longest"), [(32, 48), (8, 200)])
def test_activations_are_near_what_autograd_keeps(rows: int, longest: int) -> None:
    config = ModelConfig(
        vocab_size=256, hidden_size=64, intermediate_size=168, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=1,
    )
    decoder = build_decoder(config, seed=0)
    own = {p.untyped_storage().data_ptr() for p in decoder.parameters()}
    kept: dict[int, int] = {}
    alive: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    ids = torch.zeros(rows, longest, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = decoder(ids).flatten(0, 1)
        token_logprobs(hidden, decoder.head_weight, ids.flatten())
    estimate = estimate_training_memory(config, token_budget=rows * longest, longest=longest).activations
    assert 0.67 < estimate / sum(kept.values()) < 1.5
