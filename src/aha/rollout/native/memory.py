"""What the sampler takes: weights of its own, the cache, and what prefill and decoding hold for a moment."""

from __future__ import annotations

from dataclasses import dataclass

from aha.errors import SettingError
from aha.model.config import ModelConfig
from aha.model.count import cache_bytes_per_token, count_parameters

MAX_SLOTS = 256
PREFILL_TOKENS = 4096
DIGEST_CHUNK = 1 << 20
_COLUMN_STEP = 16


@dataclass(frozen=True, slots=True)
class RolloutMemory:
    """Bytes: ``held`` from the first rollout on (weights and cache), ``working`` only while sampling."""

    held: int
    working: int


def count_columns(prompt: int, max_new_tokens: int) -> int:
    """Tokens that a row of the cache has room for."""
    return -(-(prompt + max_new_tokens) // _COLUMN_STEP) * _COLUMN_STEP


def count_slots(
    config: ModelConfig, sequences: int, columns: int, *, cache_bytes: int, max_slots: int, bytes_per_number: int
) -> int:
    """Sequences that are live at once. ``SettingError`` where the cache cannot hold one."""
    token_bytes = cache_bytes_per_token(config, bytes_per_number=bytes_per_number)
    fitting = cache_bytes // (token_bytes * columns)
    if fitting < 1:
        raise SettingError(
            f"cache_bytes {cache_bytes} cannot hold one sequence of {columns} tokens at {token_bytes} "
            f"bytes a token: raise it to at least {token_bytes * columns}"
        )
    return min(max_slots, sequences, fitting)


def estimate_rollout(
    config: ModelConfig,
    *,
    prompts: int,
    samples: int,
    prompt: int,
    max_new_tokens: int,
    cache_bytes: int,
    bytes_per_number: int = 4,
) -> RolloutMemory:
    """For ``samples`` completions of each of ``prompts`` prompts of up to ``prompt`` tokens, temperature sampling."""
    b, D, F, V = bytes_per_number, config.hidden_size, config.intermediate_size, config.vocab_size
    N, heads = config.num_attention_heads, config.num_attention_heads + 2 * config.num_key_value_heads
    columns = count_columns(prompt, max_new_tokens)
    slots = count_slots(
        config, prompts * samples, columns, cache_bytes=cache_bytes, max_slots=MAX_SLOTS, bytes_per_number=b
    )
    token_bytes = cache_bytes_per_token(config, bytes_per_number=b)
    live_prompts = min(prompts, -(-slots // samples))
    read = live_prompts * (prompt * token_bytes + 4 * V)
    at_once = min(live_prompts * prompt, max(PREFILL_TOKENS, prompt))
    prefill = at_once * (token_bytes + (3 * D + 2 * heads * config.head_dim + 3 * F) * b)
    logits = slots * V * (4 + 4 + 8)  # and their probabilities, and the sums of those in double precision
    scores = slots * N * columns * (2 * b + 4)
    largest = max(V * D, 2 * D * F)
    digest = 5 * 8 * min(largest, DIGEST_CHUNK) + 2 * D * F * b
    return RolloutMemory(
        held=count_parameters(config) * b + slots * (columns * token_bytes + 12 * max_new_tokens),
        working=max(read + max(prefill, logits, scores), digest),
    )
