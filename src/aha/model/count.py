"""What a decoder costs, from its config alone: parameters, arithmetic per token, cache, memory for training. No torch.

A mixture of experts has two counts: the parameters that exist, and those that one token uses.
"""

from __future__ import annotations

from dataclasses import dataclass

from aha.model.config import ModelConfig

PARTS = ("embedding", "head", "attention", "feed_forward", "router", "experts", "norms")


@dataclass(frozen=True, slots=True)
class Parameters:
    """Numbers of the main model's weights by what they are for; modules for further tokens are not among them.

    ``experts`` are the routed ones, ``feed_forward`` dense layers and shared experts, ``router`` weights and, in
    deepseek_v3, the bias of the choice. A tied head counts once, as the embedding.
    """

    embedding: int
    head: int
    attention: int
    feed_forward: int
    router: int
    experts: int
    norms: int
    experts_used: int

    @property
    def total(self) -> int:
        return self.active - self.experts_used + self.experts

    @property
    def active(self) -> int:
        """What one token passes through, the whole embedding included."""
        fixed = self.embedding + self.head + self.attention + self.feed_forward + self.router + self.norms
        return fixed + self.experts_used


def count_by_part(config: ModelConfig) -> Parameters:
    """The parameters of ``config`` by part. DeepSeek-V3: 671,026,419,200 in all."""
    D, layers = config.hidden_size, config.num_hidden_layers
    sparse = sum(config.has_experts(layer) for layer in range(layers))
    expert = 3 * D * config.moe_intermediate_size
    embedding = config.vocab_size * D
    return Parameters(
        embedding=embedding,
        head=0 if config.tie_word_embeddings else embedding,
        attention=layers * (_attention_matrix(config) + _attention_vectors(config)),
        feed_forward=(layers - sparse) * 3 * D * config.intermediate_size + sparse * config.n_shared_experts * expert,
        router=sparse * config.n_routed_experts * (D + _has_bias(config)),
        experts=sparse * config.n_routed_experts * expert,
        norms=layers * 2 * D + D,
        experts_used=sparse * config.num_experts_per_tok * expert,
    )


def count_ahead(config: ModelConfig) -> int:
    """Numbers in the modules of multi-token prediction: a layer of the body's last kind, and what joins its inputs."""
    modules = config.num_nextn_predict_layers
    if not modules:
        return 0
    last = count_by_part(config.model_copy(update={"num_hidden_layers": config.num_hidden_layers + modules}))
    D = config.hidden_size
    return last.total - count_by_part(config).total + modules * (2 * D * D + 3 * D)


def count_parameters(config: ModelConfig) -> int:
    """Numbers in the decoder's weights, modules of multi-token prediction included; a tied head counts once."""
    return count_by_part(config).total + count_ahead(config)


def flops_per_token(config: ModelConfig, *, context: float, backward: bool = False) -> float:
    """Floating-point operations for one token that sees ``context`` tokens (itself included), head included.

    Two operations per weight of every matrix product that the token takes part in, and two per number of a query and
    of a value for each token seen, head and layer; norms and activations are left out, as is usual (Kaplan et al. 2020,
    table 1). Latent attention is counted in its expanded form. A whole causal sequence of T tokens has a mean context
    of ``(T + 1) / 2``. With ``backward`` the gradient counts too, at twice the forward: three times as much in all.
    Modules of multi-token prediction are left out: only training and drafts run them.
    """
    parts = count_by_part(config)
    D = config.hidden_size
    router = parts.router // (D + _has_bias(config)) * D  # adding the bias is no product
    weights = (
        config.num_hidden_layers * _attention_matrix(config)
        + parts.feed_forward
        + router
        + parts.experts_used
        + config.vocab_size * D
    )
    query, value = config.head_dim, config.head_dim
    if config.latent_attention:
        query, value = config.qk_nope_head_dim + config.qk_rope_head_dim, config.v_head_dim
    scores = 2 * config.num_hidden_layers * config.num_attention_heads * (query + value) * context
    return (3 if backward else 1) * (2 * weights + scores)


def cache_values_per_layer(config: ModelConfig) -> int:
    """Numbers that one token leaves in the cache of one layer: keys and values, or latent and rotary key."""
    if config.latent_attention:
        return config.kv_lora_rank + config.qk_rope_head_dim
    return 2 * config.num_key_value_heads * config.head_dim


def multi_head_values_per_layer(config: ModelConfig) -> int:
    """What multi-head attention of as many heads, as wide as this model's values, would leave there instead."""
    width = config.v_head_dim if config.latent_attention else config.head_dim
    return 2 * config.num_attention_heads * width


def cache_bytes_per_token(config: ModelConfig, *, bytes_per_number: int = 4) -> int:
    """Bytes that one token leaves in the cache, all layers together."""
    return config.num_hidden_layers * cache_values_per_layer(config) * bytes_per_number


# Bytes of one parameter's weight, gradient, float32 master copy, and both moments of AdamW.
MIXES: dict[str, tuple[int, int, int, int]] = {
    "float32": (4, 4, 0, 8),  # what this program trains with
    "bfloat16": (2, 2, 0, 4),
    "mixed": (2, 4, 4, 8),  # bfloat16 weights, the rest in float32 (Micikevicius et al. 2018)
    "deepseek-v3": (2, 4, 4, 4),  # moments in bfloat16, too (DeepSeek-V3 3.3.3)
}
LAYOUTS = ("replicated", "zero1", "fsdp")


def training_bytes(parameters: int, *, mix: str, layout: str, ranks: int) -> int:
    """Bytes a rank holds for ``parameters`` while training with AdamW, activations left out.

    ``replicated``: everything on every rank; ``zero1``: master copies and moments are shared out; ``fsdp``: all is.
    """
    weights, gradients, masters, moments = MIXES[mix]
    whole, shared = weights + gradients, masters + moments
    if layout == "replicated":
        ranks = 1
    elif layout == "fsdp":
        whole, shared = 0, whole + shared
    return parameters * whole + -(-parameters * shared // ranks)


def _has_bias(config: ModelConfig) -> bool:
    return config.model_type == "deepseek_v3"


def _attention_matrix(config: ModelConfig) -> int:
    """Weights of one layer's matrix products in attention."""
    D, N, K, H = config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim
    if not config.latent_attention:
        return D * (2 * N + 2 * K) * H
    C, R, Q = config.kv_lora_rank, config.qk_rope_head_dim, config.q_lora_rank
    nope, value = config.qk_nope_head_dim, config.v_head_dim
    query = D * N * (nope + R) if Q is None else D * Q + Q * N * (nope + R)
    return query + D * (C + R) + C * N * (nope + value) + N * value * D


def _attention_vectors(config: ModelConfig) -> int:
    """Biases and norms inside one layer's attention."""
    N, K, H = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    if config.latent_attention:
        return config.kv_lora_rank + (config.q_lora_rank or 0)
    biases = (N + 2 * K) * H * config.qkv_bias + config.hidden_size * config.o_bias
    return biases + 2 * H * config.qk_norm
