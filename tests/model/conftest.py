"""Tiny models of every supported kind, and the same ones in transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from aha.model.config import ModelConfig
from aha.model.decoder import Decoder, build_decoder

_TINY: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 1, "rope_theta": 10000.0, "max_position_embeddings": 128,
}
_KINDS: dict[str, dict[str, Any]] = {
    "llama-tied": {},
    "llama-untied": {"tie_word_embeddings": False, "num_key_value_heads": 4, "rms_norm_eps": 1e-5},
    "llama3-like": {"num_key_value_heads": 2, "rope_theta": 500000.0, "eos_token_id": [3, 4], "bos_token_id": 1},
    "llama-biases": {"attention_bias": True, "head_dim": 6},
    "qwen2": {"model_type": "qwen2", "num_key_value_heads": 2, "rope_theta": 1e6},
    "qwen3": {"model_type": "qwen3", "head_dim": 12, "num_key_value_heads": 2, "tie_word_embeddings": False},
}


def perturb(module: torch.nn.Module) -> None:
    """Moves every weight, so that ones, zeros and tiny matrices hide nothing."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)


@pytest.fixture(params=_KINDS)
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return ModelConfig(**{**_TINY, **_KINDS[request.param]})


@pytest.fixture
def tiny_config() -> ModelConfig:
    return ModelConfig(**_TINY)


@pytest.fixture
def decoder(config: ModelConfig) -> Decoder:
    decoder = build_decoder(config, seed=1)
    perturb(decoder)
    return decoder


@pytest.fixture
def tiny_decoder(tiny_config: ModelConfig) -> Decoder:
    decoder = build_decoder(tiny_config, seed=1)
    perturb(decoder)
    return decoder


@pytest.fixture
def build_reference() -> Callable[[ModelConfig], Any]:
    """Builds transformers' model of a config, with arguments of its own classes: nothing of ours is in between."""

    def build(config: ModelConfig) -> Any:
        arguments: dict[str, Any] = {
            name: getattr(config, name)
            for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                         "num_key_value_heads", "head_dim", "rms_norm_eps", "max_position_embeddings",
                         "tie_word_embeddings", "bos_token_id", "eos_token_id")
        }
        arguments["rope_parameters"] = {"rope_type": "default", "rope_theta": config.rope_theta}
        if config.model_type == "llama":
            arguments["attention_bias"] = config.attention_bias
        kinds = {"llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
                 "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
                 "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM)}
        config_class, model_class = kinds[config.model_type]
        model = model_class(config_class(**arguments)).eval()
        perturb(model)
        return model

    return build
