"""What a decoder costs, from its config alone: parameters, arithmetic per token, cache bytes per token."""

from __future__ import annotations

from aha.model.config import ModelConfig


def count_parameters(config: ModelConfig) -> int:
    """Trainable numbers of the decoder, modules of multi-token prediction included; a tied head counts once."""
    D, N, K, H = config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim
    biases = (N + 2 * K) * H * config.qkv_bias + D * config.o_bias
    norms = 2 * D + 2 * H * config.qk_norm
    layer = _layer_matrix(config) + biases + norms
    embeddings = config.vocab_size * D * (1 if config.tie_word_embeddings else 2)
    ahead = config.num_nextn_predict_layers * (layer + 2 * D * D + 3 * D)
    return config.num_hidden_layers * layer + embeddings + D + ahead


def flops_per_token(config: ModelConfig, *, context: float, backward: bool = False) -> float:
    """Floating-point operations for one token that sees ``context`` tokens (itself included), head included.

    Two operations per weight of every matrix product and ``4 N H`` per token seen and layer; norms and activations are
    left out, as is usual (Kaplan et al. 2020, table 1). A whole causal sequence of T tokens has a mean context of
    ``(T + 1) / 2``. With ``backward`` the gradient counts too, at twice the forward: three times as much in all.
    Modules of multi-token prediction are left out: only training and drafts run them.
    """
    weights = config.num_hidden_layers * _layer_matrix(config) + config.vocab_size * config.hidden_size
    scores = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * context
    return (3 if backward else 1) * (2 * weights + scores)


def cache_bytes_per_token(config: ModelConfig, *, bytes_per_number: int = 4) -> int:
    """Bytes of keys and values that one token leaves in the cache, all layers together."""
    return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * bytes_per_number


def _layer_matrix(config: ModelConfig) -> int:
    """Weights of one layer's matrix products."""
    D, N, K, H = config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim
    return D * (2 * N + 2 * K) * H + 3 * D * config.intermediate_size
