from __future__ import annotations

import torch

from aha.model.config import ModelConfig
from aha.model.count import cache_bytes_per_token, count_parameters, flops_per_token
from aha.model.decoder import build_empty_decoder


def test_parameters_equal_the_decoder(config: ModelConfig) -> None:
    decoder = build_empty_decoder(config, device="meta")
    assert count_parameters(config) == sum(
        tensor.numel() for tensor in (*decoder.parameters(), *decoder.buffers())
    )


def test_published_size() -> None:
    smollm2 = ModelConfig(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                          num_attention_heads=9, num_key_value_heads=3)
    assert count_parameters(smollm2) == 134_515_008


def test_flops_by_hand() -> None:
    config = ModelConfig(vocab_size=10, hidden_size=4, intermediate_size=6, num_hidden_layers=3, num_attention_heads=2,
                         num_key_value_heads=1)
    # q 4x4, k 4x2, v 4x2, o 4x4, three of 4x6: 120 weights a layer; the head 40; scores 4 * N * H = 16 a token seen
    assert flops_per_token(config, context=5) == 2 * (3 * 120 + 40) + 3 * 16 * 5
    assert flops_per_token(config, context=5, backward=True) == 3 * flops_per_token(config, context=5)


def test_cache_by_hand(tiny_config: ModelConfig) -> None:
    # 2 layers, keys and values, 1 head of 8 numbers
    assert cache_bytes_per_token(tiny_config) == 2 * 2 * 8 * 4
    assert cache_bytes_per_token(tiny_config, bytes_per_number=torch.bfloat16.itemsize) == 2 * 2 * 8 * 2
