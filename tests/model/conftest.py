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
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 64, "low_freq_factor": 1.0,
           "high_freq_factor": 4.0}
_V3: dict[str, Any] = {
    "model_type": "deepseek_v3", "num_key_value_heads": 4, "q_lora_rank": 24, "kv_lora_rank": 16,
    "qk_nope_head_dim": 10, "qk_rope_head_dim": 6, "v_head_dim": 14, "n_routed_experts": 8, "n_shared_experts": 1,
    "num_experts_per_tok": 3, "moe_intermediate_size": 20, "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2,
    "routed_scaling_factor": 2.5, "tie_word_embeddings": False,
}
_V2 = {**_V3, "model_type": "deepseek_v2", "routed_scaling_factor": 1.0}
_KINDS: dict[str, dict[str, Any]] = {
    "llama-tied": {},
    "llama-untied": {"tie_word_embeddings": False, "num_key_value_heads": 4, "rms_norm_eps": 1e-5},
    "llama3-like": {"num_key_value_heads": 2, "rope_theta": 500000.0, "eos_token_id": [3, 4], "bos_token_id": 1},
    "llama3.2-like": {"head_dim": 16, "rope_theta": 500000.0, "rope_scaling": _LLAMA3},
    "llama-linear": {"num_key_value_heads": 2, "rope_scaling": {"rope_type": "linear", "factor": 3.0}},
    "llama-biases": {"attention_bias": True, "head_dim": 6},
    "mistral": {"model_type": "mistral", "num_key_value_heads": 2, "head_dim": 10, "tie_word_embeddings": False},
    "mistral-window": {"model_type": "mistral", "sliding_window": 96},
    "qwen2": {"model_type": "qwen2", "num_key_value_heads": 2, "rope_theta": 1e6},
    "qwen2-yarn": {"model_type": "qwen2", "num_attention_heads": 2, "rope_theta": 1e6, "rope_scaling": _YARN},
    "qwen3": {"model_type": "qwen3", "head_dim": 12, "num_key_value_heads": 2, "tie_word_embeddings": False},
    "v3": _V3,
    "v3-yarn-flat": {**_V3, "q_lora_rank": None, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2,
                     "rope_scaling": {**_YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 8.0},
                     "n_shared_experts": 3, "tie_word_embeddings": True, "qk_rope_head_dim": 8, "v_head_dim": 5},
    "v3-halves": {**_V3, "rope_interleave": False, "norm_topk_prob": False, "first_k_dense_replace": 0,
                  "v_head_dim": 20, "rope_scaling": {**_YARN, "mscale": 0.7, "mscale_all_dim": 0.5, "truncate": False}},
    "v3-unshared": {**_V3, "n_shared_experts": 0, "num_hidden_layers": 3, "n_group": 2, "topk_group": 1},
    "v3-dense": {**_V3, "first_k_dense_replace": 2},
    "v2-lite": {**_V2, "q_lora_rank": None, "n_group": 1, "topk_group": 1, "n_shared_experts": 2,
                "rope_scaling": {**_YARN, "mscale": 0.707, "mscale_all_dim": 0.707}},
    "v2": {**_V2, "routed_scaling_factor": 16.0, "tie_word_embeddings": True, "rms_norm_eps": 1e-5},
}


def perturb(module: torch.nn.Module) -> None:
    """Moves every weight, so that ones, zeros and tiny matrices hide nothing."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)
        for name, buffer in module.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.add_(torch.randn(buffer.shape, generator=generator) * 0.4)  # also below every score


@pytest.fixture(params=_KINDS)
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return ModelConfig(**{**_TINY, **_KINDS[request.param]})


@pytest.fixture
def build_kind() -> Callable[[str], Decoder]:
    """One of the kinds by name, its weights moved."""

    def build(kind: str) -> Decoder:
        decoder = build_decoder(ModelConfig(**{**_TINY, **_KINDS[kind]}), seed=1)
        perturb(decoder)
        return decoder

    return build


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
        names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                 "num_key_value_heads", "rms_norm_eps", "max_position_embeddings", "tie_word_embeddings",
                 "bos_token_id", "eos_token_id")
        own: tuple[str, ...] = ("head_dim",)
        if config.model_type == "llama":
            own = ("head_dim", "attention_bias")
        elif config.model_type == "mistral":
            own = ("head_dim", "sliding_window")
        elif config.latent_attention:
            own = (*_V3.keys() - {"model_type"}, "norm_topk_prob")
        arguments: dict[str, Any] = {name: getattr(config, name) for name in (*names, *own)}
        scaling = config.rope_scaling
        arguments["rope_parameters"] = {"rope_type": "default", "rope_theta": config.rope_theta} | (
            scaling.model_dump(exclude_none=True) if scaling else {}
        )
        if config.model_type == "deepseek_v3":
            arguments |= {"rope_interleave": config.rope_interleave, "num_nextn_predict_layers": 0}
        elif config.model_type == "deepseek_v2":
            arguments["topk_method"] = "group_limited_greedy" if config.n_group > 1 else "greedy"
        kinds = {"llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
                 "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
                 "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
                 "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
                 "deepseek_v2": (transformers.DeepseekV2Config, transformers.DeepseekV2ForCausalLM),
                 "deepseek_v3": (transformers.DeepseekV3Config, transformers.DeepseekV3ForCausalLM)}
        config_class, model_class = kinds[config.model_type]
        reference_config = config_class(**arguments)
        reference_config._experts_implementation = "eager"  # its grouped kernel wants widths that are multiples of 4
        model = model_class(reference_config).eval()
        perturb(model)
        return model

    return build
