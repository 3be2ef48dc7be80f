"""Tiny float64 decoders and rows shared by the tests of this folder."""

from __future__ import annotations

import torch

from aha.model.config import ModelConfig
from aha.model.decoder import Decoder, build_decoder
from aha.train.batch import PolicyRow

V = 13


def tiny_config(*, layers: int = 2, vocab: int = V) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
    )


def tiny_decoder(seed: int = 0, *, layers: int = 2, vocab: int = V, scale: float = 1.0) -> Decoder:
    """Distributions are far from uniform unless ``scale`` makes the fresh matrices smaller."""
    decoder = build_decoder(tiny_config(layers=layers, vocab=vocab), seed=seed, dtype=torch.float64)
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
    return decoder


def sgd(decoder: torch.nn.Module) -> torch.optim.SGD:
    """Plain descent of rate 1: weights before minus weights after are the gradient."""
    return torch.optim.SGD(decoder.parameters(), lr=1.0)


def sample_rows(seed: int, lengths: list[tuple[int, int]], *, old: float = -2.0) -> list[PolicyRow]:
    """Random rows of the given (prompt, completion) lengths, with advantages and old log-probs of either side."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for prompt, completion in lengths:
        ids = torch.randint(V, (prompt + completion,), generator=generator).tolist()
        sampler_logprobs = (old + 0.3 * torch.randn(completion, generator=generator)).tolist()
        advantage = torch.randn((), generator=generator).item()
        rows.append(PolicyRow(ids[:prompt], ids[prompt:], advantage, sampler_logprobs))
    return rows


def gradient_of(decoder: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in decoder.parameters() if p.grad is not None])


def weights_of(decoder: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in decoder.parameters()])
