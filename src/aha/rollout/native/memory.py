"""What the sampler takes: weights of its own, the cache, and what prefill and decoding hold for a moment."""

from __future__ import annotations

from dataclasses import dataclass

from aha.errors import SettingError
from aha.model.config import ModelConfig
from aha.model.count import cache_values_per_layer, count_parameters

MAX_SLOTS = 256
PREFILL_TOKENS = 4096
DIGEST_CHUNK, GPU_DIGEST_CHUNK = 1 << 16, 1 << 20  # numbers, of 40 bytes each
_COLUMN_STEP = 16


@dataclass(frozen=True, slots=True)
class RolloutMemory:
    """Bytes: ``held`` from the loading of weights to their release (with the cache), ``working`` only while
    sampling."""

    held: int
    working: int


def count_columns(longest: int, *, speculate: int = 0) -> int:
    """Tokens that a row of the cache has room for, where prompt and completion have ``longest`` at most. Drafts are
    read beyond a row's last token, and one column more takes what belongs nowhere."""
    spare = speculate + 1 if speculate else 0
    return -(-(longest + spare) // _COLUMN_STEP) * _COLUMN_STEP


def token_bytes_of(config: ModelConfig, *, bytes_per_number: int, speculate: int = 0) -> int:
    """Bytes that a token leaves in the cache: of every layer, and of each module that drafts."""
    return (config.num_hidden_layers + speculate) * cache_values_per_layer(config) * bytes_per_number


def count_slots(
    config: ModelConfig,
    sequences: int,
    columns: int,
    *,
    cache_bytes: int,
    max_slots: int,
    bytes_per_number: int,
    speculate: int = 0,
) -> int:
    """Sequences that are live at once. ``SettingError`` where the cache cannot hold one."""
    token_bytes = token_bytes_of(config, bytes_per_number=bytes_per_number, speculate=speculate)
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
    speculate: int = 0,
    bytes_per_number: int = 4,
    int8: bool = False,
    captured: bool = False,
) -> RolloutMemory:
    """For ``samples`` completions of each of ``prompts`` prompts of up to ``prompt`` tokens, temperature sampling.

    With ``speculate`` modules that draft, their weights and cache, and logits and scores of as many tokens more a row.
    With ``int8`` matrices are in it, and the rest has ``bytes_per_number``. A step that is ``captured`` as a graph has
    memory of its own (rollout/native/graphs.py).
    """
    b, D, F, V = bytes_per_number, config.hidden_size, config.intermediate_size, config.vocab_size
    N, heads = config.num_attention_heads, config.num_attention_heads + 2 * config.num_key_value_heads
    columns = count_columns(prompt + max_new_tokens, speculate=speculate)
    slots = count_slots(
        config,
        prompts * samples,
        columns,
        cache_bytes=cache_bytes,
        max_slots=MAX_SLOTS,
        bytes_per_number=b,
        speculate=speculate,
    )
    token_bytes = token_bytes_of(config, bytes_per_number=b, speculate=speculate)
    at_a_time = 2 * speculate or 1  # tokens of a row: a module's window is as long, or longer than what is verified
    of_drafts = slots * V * (4 * speculate + 16 * (speculate + 1)) if speculate else 0  # theirs, and of verifying
    live_prompts = min(prompts, -(-slots // samples))
    read = live_prompts * (prompt * token_bytes + 4 * V)
    at_once = min(live_prompts * prompt, max(PREFILL_TOKENS, prompt))
    prefill = at_once * (token_bytes + (3 * D + 2 * heads * config.head_dim + 3 * F) * b)
    logits = slots * V * (4 + 4 + 8)  # and their probabilities, and the sums of those in double precision
    scores = slots * at_a_time * N * columns * (2 * b + 4)
    uniforms = 4 * 8 * slots * max_new_tokens  # of all tokens of the rows that are admitted, while they are mixed
    laid_out_anew = slots * columns * token_bytes // config.num_hidden_layers  # a layer at a time
    kept = max(logits, scores) if captured else 8 * slots * N * columns if b == 4 else 0  # a graph's, or workspace.py's
    largest = max(V * D, 2 * D * F)
    sampled = config.model_copy(update={"num_nextn_predict_layers": speculate})
    digest = 5 * 8 * min(largest, DIGEST_CHUNK) + largest * b
    weights = count_parameters(sampled) * b
    if config.tie_word_embeddings:
        weights += V * D * b  # packed apart from the embedding
    if int8:  # numbers, and a step for each output; when loaded they are read as float32, and raised for the kernels
        outputs = config.num_hidden_layers * (heads * config.head_dim + 2 * D + 2 * F) + 2 * V
        weights = count_parameters(sampled) + 4 * outputs
        digest = 5 * 8 * min(largest, DIGEST_CHUNK) + max(5 * V * D, 2 * D * F * (4 + 3))
    return RolloutMemory(
        held=weights + slots * (columns * token_bytes + 20 * max_new_tokens),
        working=max(read + max(prefill, logits + of_drafts, scores, uniforms, laid_out_anew) + kept, digest),
    )
