"""How many bytes a training step needs, from the config alone and before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass

from aha.model.config import ModelConfig
from aha.model.count import count_parameters
from aha.objective.logprob import CHUNK_ELEMENTS


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Bytes of each kind; ``activations`` are those of the largest micro-batch."""

    weights: int
    reference: int
    gradients: int
    moments: int
    activations: int

    @property
    def total(self) -> int:
        """All of it together."""
        return self.weights + self.reference + self.gradients + self.moments + self.activations


def estimate_training_memory(
    config: ModelConfig, *, token_budget: int, longest: int, bytes_per_number: int = 4, reference: bool = False
) -> TrainingMemory:
    """An estimate for AdamW on micro-batches of ``token_budget`` tokens whose rows have up to ``longest`` tokens.

    Activations are what autograd keeps for the backward pass, to about a third. Not counted: what the program itself
    takes (some 300 MB with torch), the rollout engine's weights and cache, and the allocator's leftovers.
    """
    weights = count_parameters(config) * bytes_per_number
    tokens = max(token_budget, longest)
    D = config.hidden_size
    NH, KH = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    if config.latent_attention:  # expanded: every head has keys of its own
        NH = KH = config.num_attention_heads * (config.qk_nope_head_dim + config.qk_rope_head_dim)
    # Two norms keep their unit vectors and hand on their outputs; queries, keys and values are kept before and after
    # rotation or regrouping, and so is what attention read; the feed-forward keeps gate, up, silu(gate), the product.
    # Scores are kept on short rows alone, where attention is plain matrix products (model/attention/plan.py).
    scores = config.num_attention_heads * longest if longest <= (64 if bytes_per_number >= 4 else 1024) else 0
    layer = 4 * D + 4 * NH + 4 * KH + scores
    sparse = sum(config.has_experts(index) for index in range(config.num_hidden_layers))
    chosen, inner = config.num_experts_per_tok, config.moe_intermediate_size
    # A chosen expert also keeps the row it was given and the row it made.
    expert = (chosen + config.n_shared_experts) * 4 * inner + chosen * 2 * D
    feed = (config.num_hidden_layers - sparse) * 4 * config.intermediate_size + sparse * expert
    head = 4 * D  # embedding, final norm, gathered hidden states
    probabilities = min(tokens * config.vocab_size, CHUNK_ELEMENTS)
    kept = config.num_hidden_layers * layer + feed + head
    activations = (tokens * kept + 3 * probabilities) * bytes_per_number
    return TrainingMemory(
        weights=weights,
        reference=weights if reference else 0,
        gradients=weights,
        moments=2 * weights,
        activations=activations,
    )
