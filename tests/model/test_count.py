from __future__ import annotations

import pytest
import torch

from aha.model.config import ModelConfig
from aha.model.config_file import find_config
from aha.model.count import (
    cache_bytes_per_token,
    cache_values_per_layer,
    count_ahead,
    count_by_part,
    count_parameters,
    flops_per_token,
    multi_head_values_per_layer,
    training_bytes,
)
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


@pytest.mark.parametrize(("name", "parameters", "cache_bytes"), [
    ("deepseek-v3", 671_026_419_200, 70_272),
    ("deepseek-v2-lite", 15_706_484_224, 27 * 576 * 2),
    ("qwen2.5-7b", 7_615_616_512, 57_344),
    ("qwen2.5-72b", 72_706_203_648, 327_680),
    ("llama-3.1-8b", 8_030_261_248, 131_072),
    ("llama-3.1-405b", 405_853_388_800, 516_096),
])
def test_published_models(name: str, parameters: int, cache_bytes: int) -> None:
    config = find_config(name)
    assert count_by_part(config).total == parameters
    assert cache_bytes_per_token(config, bytes_per_number=2) == cache_bytes


def test_deepseek_v3() -> None:
    config = find_config("deepseek-v3")
    assert (cache_values_per_layer(config), multi_head_values_per_layer(config)) == (576, 32_768)
    parts = count_by_part(config)
    # The paper's 37 billion leave the embedding out; ISCA's table 2 has 250 GFLOP a token for sequences of 4,096.
    assert round((parts.active - parts.embedding) / 1e9, 1) == 36.6
    assert flops_per_token(config, context=4097 / 2, backward=True) == pytest.approx(250e9, rel=0.005)
    # "11.5B unique parameters" (README_WEIGHTS of the published folder)
    assert config.num_nextn_predict_layers == 1
    assert count_ahead(config) == count_parameters(config) - parts.total == pytest.approx(11.5e9, rel=0.01)


def test_flops_of_experts_and_latent_attention_by_hand() -> None:
    config = ModelConfig(
        model_type="deepseek_v3", vocab_size=10, hidden_size=4, intermediate_size=6, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, q_lora_rank=3, kv_lora_rank=5, qk_nope_head_dim=2,
        qk_rope_head_dim=2, v_head_dim=1, n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=2,
        moe_intermediate_size=7, first_k_dense_replace=1,
    )  # fmt: skip
    attention = 4 * 3 + 3 * 2 * 4 + 4 * 7 + 5 * 2 * 3 + 2 * 4
    dense, experts, router = 3 * 4 * 6, (2 + 1) * 3 * 4 * 7, 8 * 4
    weights = 2 * attention + dense + experts + router + 10 * 4
    assert flops_per_token(config, context=3) == 2 * weights + 2 * 2 * 2 * (4 + 1) * 3


def test_training_memory_by_hand() -> None:
    # DeepSeek-V3: weights 2, gradients 4, master 4, moments 2 + 2 bytes
    assert training_bytes(100, mix="deepseek-v3", layout="replicated", ranks=4) == 1400
    assert training_bytes(100, mix="deepseek-v3", layout="zero1", ranks=4) == 600 + 200
    assert training_bytes(100, mix="deepseek-v3", layout="fsdp", ranks=4) == 350
    assert training_bytes(100, mix="float32", layout="replicated", ranks=1) == 1600
