"""Layers that are computed again give the same gradients, and less is in memory."""

from __future__ import annotations

import pytest
import torch

from aha.errors import SettingError
from aha.model.checkpointing import checkpoint_layers
from aha.model.config import ModelConfig
from aha.model.decoder import Decoder, build_decoder
from aha.testing import measure_peak_memory

CONFIG = ModelConfig(
    vocab_size=16,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=2,
)
IDS = torch.arange(128).view(2, 64) % 16


def backward(decoder: Decoder) -> None:
    decoder.logits(decoder(IDS)).square().mean().backward()


def test_gradients_are_the_same_and_memory_is_less() -> None:
    plain, again = build_decoder(CONFIG, seed=0), build_decoder(CONFIG, seed=0)
    checkpoint_layers(again)
    peaks = [measure_peak_memory(lambda decoder=decoder: backward(decoder)) for decoder in (plain, again)]
    for (name, one), other in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), name
    assert peaks[1] < 0.6 * peaks[0]
    assert again.state_dict().keys() == plain.state_dict().keys()


def test_some_layers_below_which_nothing_learns() -> None:
    plain, again = build_decoder(CONFIG, seed=0), build_decoder(CONFIG, seed=0)
    checkpoint_layers(again, 4)
    for decoder in (plain, again):
        decoder.model.embed_tokens.requires_grad_(False)
        decoder.model.layers[0].requires_grad_(False)
        backward(decoder)
    for (name, one), other in zip(plain.named_parameters(), again.named_parameters(), strict=True):
        assert (one.grad is None) == (other[1].grad is None), name
        assert one.grad is None or torch.equal(one.grad, other[1].grad), name


def test_experts_are_refused() -> None:
    config = ModelConfig(
        model_type="deepseek_v3", vocab_size=16, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, kv_lora_rank=8, qk_nope_head_dim=4, qk_rope_head_dim=4,
        v_head_dim=4, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=8,
    )  # fmt: skip
    with pytest.raises(SettingError, match="counted twice"):
        checkpoint_layers(build_decoder(config, seed=0))
