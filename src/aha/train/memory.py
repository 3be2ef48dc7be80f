"""How many bytes a training step needs at its peak, from shapes alone and before anything is allocated.

Nothing is measured here and no tensor is made: what autograd keeps and what the passes hold for a moment is counted
term by term, as model/decoder.py, model/attention.py and objective/logprob.py compute it.

Axes: T tokens of a micro-batch, L layers, D width, N query heads, K key/value heads, H head width, F feed-forward
width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from aha.model import embedding as embeddings
from aha.model import kernels
from aha.model.attention import compiled
from aha.model.attention.plan import Branches, plain_tokens
from aha.model.config import ModelConfig
from aha.model.count import count_ahead, count_parameters
from aha.model.product import count_widened, is_widened
from aha.objective.distillation import distilled_at_once
from aha.objective.logprob import WORDS_AT_ONCE, positions_at_once
from aha.train.microbatch import split_branches, split_by_tokens
from aha.train.packing import best_fit


class Part(NamedTuple):
    """One call of attention: ``rows`` x ``queries`` that see ``keys``; ``masks`` masks are made."""

    rows: int
    queries: int
    keys: int
    masks: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """The shape of a micro-batch: its tokens, those that have a loss, and what attention is called with.

    ``gathered``: tokens are laid out anew for attention (packed documents; prompts and what continues them).
    """

    tokens: int
    predicted: int
    parts: tuple[Part, ...]
    gathered: bool


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes of a model that is trained: its weights, their gradients, and AdamW's two moments."""

    weights: int
    gradients: int
    moments: int


def of_pairs(lengths: Sequence[int], *, token_budget: int) -> list[Layout]:
    """The micro-batches of ``collate_preference`` for pairs whose longer text has ``lengths`` tokens."""
    layouts = []
    for indices in split_by_tokens([2 * length for length in lengths], token_budget):
        rows, tokens = 2 * len(indices), max(lengths[i] for i in indices)
        layouts.append(Layout(rows * tokens, rows, (Part(rows, tokens, tokens),), gathered=False))
    return layouts


def of_texts(lengths: Sequence[int], *, token_budget: int) -> list[Layout]:
    """The micro-batches of ``collate_labelled`` for texts of ``lengths`` tokens."""
    layouts = []
    for indices in split_by_tokens(lengths, token_budget):
        rows, tokens = len(indices), max(lengths[i] for i in indices)
        layouts.append(Layout(rows * tokens, rows, (Part(rows, tokens, tokens),), gathered=False))
    return layouts


def of_documents(
    lengths: Sequence[int], learned: Sequence[int], *, width: int
) -> list[Layout]:
    """The micro-batches of ``collate_packed`` for documents of ``lengths`` tokens, ``learned`` of them with a loss."""
    inputs = [length - 1 for length in lengths]
    layouts = []
    for documents in best_fit(inputs, width):
        tokens, longest = sum(inputs[i] for i in documents), max(inputs[i] for i in documents)
        if len(documents) * longest**2 <= tokens**2:
            part = Part(len(documents), longest, longest)
        else:
            part = Part(1, tokens, tokens, masks=1)
        predicted = sum(learned[i] for i in documents)
        layouts.append(Layout(tokens, predicted, (part,), gathered=not part.masks))
    return layouts


def of_branches(branches: Branches) -> Layout:
    """Prompts and their continuations: completions without their last token, all of whose tokens have a loss."""
    prompt, longest = max(branches.prompts), max(branches.continuations)
    rows = sum(length > 0 for length in branches.continuations)
    parts = [Part(len(branches.prompts), prompt, prompt)]
    if longest:
        masks = 1 if min(branches.prompts) == prompt else rows
        parts.append(Part(rows, longest, prompt + longest, masks=masks))
    tokens = sum(branches.prompts) + sum(branches.continuations)
    return Layout(tokens, sum(branches.continuations) + len(branches.continuations), tuple(parts), gathered=True)


def of_completions(*, prompts: int, rows: int, prompt: int, completion: int, token_budget: int) -> list[Layout]:
    """The micro-batches of ``collate_policy`` for ``rows`` completions that continue ``prompts`` prompts equally often,
    all as long as the longest: the largest update there can be."""
    prompts = min(prompts, rows)
    of = [row * prompts // rows for row in range(rows)]
    layouts = []
    for indices in split_branches(of, [prompt] * rows, [completion - 1] * rows, token_budget):
        asked = {p: i for i, p in enumerate(dict.fromkeys(of[row] for row in indices))}
        layouts.append(
            of_branches(
                Branches(
                    prompts=(prompt,) * len(asked),
                    continuations=(completion - 1,) * len(indices),
                    prompt_of=tuple(asked[of[row]] for row in indices),
                )
            )
        )
    return layouts


def estimate_held(
    config: ModelConfig, *, bytes_per_number: int = 4, logits: bool = True, mtp: bool = False, lora: int = 0
) -> Held:
    """What training a decoder holds from step to step. Without ``logits`` a scalar head is trained in the place of the
    decoder's own, whose weights have no gradient; nor have modules of multi-token prediction without ``mtp``, nor
    anything but adapters of rank ``lora``."""
    trained = _num_trained(config, logits=logits, mtp=mtp, lora=lora)
    weights = lora and trained
    weights += count_parameters(config) if logits else count_parameters(config) + config.hidden_size
    return Held(weights * bytes_per_number, trained * bytes_per_number, 2 * trained * bytes_per_number)


def estimate_step(
    config: ModelConfig,
    layouts: Sequence[Layout],
    *,
    bytes_per_number: int = 4,
    on_cpu: bool = True,
    logits: bool = True,
    mtp: bool = False,
    recomputed: int = 0,
    lora: int = 0,
) -> int:
    """Bytes that an update on ``layouts``, one a micro-batch, takes at its peak beside weights and moments.

    The gradients are part of it: none are left when an update begins, and all are there from the second micro-batch
    on. ``logits`` says whether the loss needs log-probs; a scalar head does not. With ``mtp`` modules of multi-token
    prediction learn, too. Of ``recomputed`` layers only the inputs are kept, and one layer at a time is whole. Counted
    are tensors: not what the program itself takes (some 300 MB with torch), the
    allocator's leftovers, and a kernel's own scratch. Proven to the byte on a CPU for dense models without such
    modules and without adapters; on a GPU it rests on which kernel torch is documented to choose.
    """
    kept = config.model_copy(update={"num_hidden_layers": max(1, config.num_hidden_layers - recomputed)})
    whole, part = (_num_trained(c, logits=logits, mtp=mtp, lora=lora) for c in (config, kept))
    return (whole - part) * bytes_per_number + max(
        recomputed * layout.tokens * config.hidden_size * bytes_per_number
        + _estimate_micro_batch(
            kept, layout, bytes_per_number, on_cpu=on_cpu, later=number > 0, logits=logits, mtp=mtp, lora=lora
        )
        for number, layout in enumerate(layouts)
    )


def estimate_logprobs(
    config: ModelConfig, layouts: Sequence[Layout], *, bytes_per_number: int = 4, on_cpu: bool = True
) -> int:
    """Bytes that ``compute_logprobs`` holds at its peak: one layer at a time, then one chunk of logits."""
    return max(_estimate_forward(config, layout, bytes_per_number, on_cpu=on_cpu) for layout in layouts)


def estimate_distillation(config: ModelConfig, layouts: Sequence[Layout], *, bytes_per_number: int = 4) -> int:
    """Bytes that a teacher's distributions take beside an update: its hidden states, counted as wide as the student's
    are, and five tables of a chunk of logits: the student's, the teacher's, and what they become."""
    V, predicted = config.vocab_size, max(layout.predicted for layout in layouts)
    tables = 5 * min(predicted, distilled_at_once(V)) * V * 4
    return tables + 2 * predicted * config.hidden_size * bytes_per_number


def _widened(b: int, *products: tuple[int, int, int], on_cpu: bool) -> int:
    """The most that a product ``[M, K]`` by ``[N, K]`` holds in float32 where the processor multiplies no BF16."""
    if not (on_cpu and b == 2 and is_widened(torch.bfloat16, torch.device("cpu"))):
        return 0
    return 4 * max(count_widened(M, N, K) for M, N, K in products)


def _estimate_forward(config: ModelConfig, layout: Layout, b: int, *, on_cpu: bool) -> int:
    T, D, F, V = layout.tokens, config.hidden_size, _feed_width(config), config.vocab_size
    attention, beside, _ = _attention(config, layout, b, on_cpu=on_cpu)
    chunk = positions_at_once(layout.predicted, V, D, itemsize=b, on_cpu=on_cpu)
    rotation = 2 * T * config.head_dim * b
    head = layout.predicted * D * b + chunk * V * _logit_bytes(b, fused=_fused(b, on_cpu=on_cpu))
    head += _widened(b, (chunk, V, D), on_cpu=on_cpu)
    feed = 3 * T * F * b + _widened(b, (T, F, D), on_cpu=on_cpu)
    return rotation + T * D * b + max(2 * T * D * b + max(attention + beside, feed), head)


def _num_trained(config: ModelConfig, *, logits: bool, mtp: bool, lora: int = 0) -> int:
    if lora:
        return lora * config.num_hidden_layers * _adapted(config)
    trained = count_parameters(config) - (0 if mtp else count_ahead(config))
    if logits:
        return trained
    unused = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
    return trained + config.hidden_size - unused


def _adapted(config: ModelConfig) -> int:
    """Inputs and outputs together of the linear maps of a layer that may have adapters."""
    D, F = config.hidden_size, config.intermediate_size
    queries, keys = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
    return 2 * (D + queries) + 2 * (D + keys) + 3 * (D + F)


def _estimate_micro_batch(
    config: ModelConfig, layout: Layout, b: int, *, on_cpu: bool, later: bool, logits: bool, mtp: bool, lora: int
) -> int:
    """``b`` bytes a number; ``later``: an earlier micro-batch has left the gradients there."""
    modules = config.num_nextn_predict_layers if mtp else 0
    T, D, F, V = layout.tokens, config.hidden_size, _feed_width(config), config.vocab_size
    L = config.num_hidden_layers + modules
    wide, fused = max(b, 4), _fused(b, on_cpu=on_cpu)
    embedding = 0 if lora else V * D * b  # of gradients
    gradients = _num_trained(config, logits=logits, mtp=mtp, lora=lora) * b
    of_layers = gradients - embedding * (2 if logits and not config.tie_word_embeddings else 1)
    before = gradients if later else 0

    norm = T * (2 * D * b + wide)  # what is normed and the result, and the scale
    attention, attention_forward, attention_backward = _attention(config, layout, b, on_cpu=on_cpu)
    again = T * D * b  # a norm that linear maps read is computed again for their gradients
    feed = norm - (0 if config.n_routed_experts else again) + 2 * T * F * b  # gate and up
    layer = norm - again + attention + feed
    if lora:  # what its maps read is kept, what gate and up become, and what each adapter makes of it
        layer += 2 * again + 2 * T * F * b + 7 * T * lora * b
    rotation = 2 * T * config.head_dim * b
    # Each module keeps the next tokens' embeddings, the two normed halves side by side, and has a head of its own.
    of_module = 3 * norm + 3 * T * D * b + layout.predicted * D * b
    base = before + rotation + modules * of_module
    norm_backward = T * D * (2 * b if fused else 3 * wide + b)

    head = norm - T * D * b + layout.predicted * D * b  # the places that have a loss are picked out
    head_forward = 0
    if logits:  # the gradients are formed in the forward pass
        n = positions_at_once(layout.predicted, V, D, itemsize=b, on_cpu=on_cpu)
        several = n < layout.predicted
        reading = n * V * _logit_bytes(b, fused=fused) + (V * D * wide if several and not lora else 0)
        summing = n * V * (b if fused else 2 * b) + embedding
        if several and b < wide and not lora:  # over chunks in 32 bits
            part = min(V, WORDS_AT_ONCE) * D * (b + wide)
            summing = V * D * wide + max(summing - V * D * b + part, V * D * b)
        head_forward = 2 * layout.predicted * D * b + max(reading, summing)
        head_forward += _widened(b, (n, V, D), (V, D, n), on_cpu=on_cpu)
    # The first gradient of the head becomes the parameter's own, another waits for that of a tied embedding; unless
    # only the embedding's rows are added to what is there.
    tied, by_rows = config.tie_word_embeddings, config.tie_word_embeddings and V * D >= embeddings.ROWS_FROM
    waiting = embedding if logits and (not later or (tied and not by_rows)) else 0
    so_far = 0 if later else of_layers * (L - 1) // L  # gradients made on the way to the first layer
    residual = T * D * b
    feed_backward = T * ((2 if config.n_routed_experts or lora else 3 if fused else 4) * F + 2 * D) * b + again
    feed_backward += _widened(b, (T, F, D), (F, D, T), on_cpu=on_cpu)
    peaks = [
        base + (L - 1) * layer + norm + attention + attention_forward + residual,
        base + L * layer + norm + layout.predicted * D * b + head_forward,
        base + L * layer + head + waiting + norm_backward,
        base + L * layer + waiting + feed_backward + (0 if lora else D * F * b),
        base + (L - 1) * layer + norm + attention + attention_backward + waiting + again + 2 * residual,
        base + layer + waiting + so_far + feed_backward,
        before + (0 if later else of_layers) + waiting + (0 if by_rows and (later or logits) else embedding) + residual,
    ]
    return max(peaks)


def _fused(b: int, *, on_cpu: bool) -> bool:
    """Whether norms, SwiGLU, and what reads logits are compiled functions, which hold nothing beside their results."""
    return on_cpu and b <= 4 and kernels.available()


def _logit_bytes(b: int, *, fused: bool) -> int:
    """What a logit takes while it is read: with PyTorch also itself, if narrower, and its log-prob and what becomes the
    entropy's term, all in 32 bits or more."""
    return b if fused else 3 * b if b >= 4 else b + 3 * 4


def _feed_width(config: ModelConfig) -> int:
    """Numbers that a token has inside the feed-forward of a layer, mean over the layers. Each chosen expert also keeps
    the row that it was given and the row that it made; what it has inside counts twice, as SwiGLU is not one function
    there."""
    num_layers, chosen = config.num_hidden_layers, config.num_experts_per_tok
    sparse = sum(config.has_experts(layer) for layer in range(num_layers))
    inner, shared = config.moe_intermediate_size, config.n_shared_experts
    experts = shared * inner + chosen * (2 * inner + config.hidden_size)
    return (sparse * experts + (num_layers - sparse) * config.intermediate_size) // num_layers


def _attention(config: ModelConfig, layout: Layout, b: int, *, on_cpu: bool) -> tuple[int, int, int]:
    """Bytes that a layer's attention keeps for the backward pass; what it holds beside them at its forward peak; and
    at its backward peak."""
    N, K, H = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    if config.latent_attention:  # expanded: every head has keys of its own
        H += config.qk_nope_head_dim
    NH, KH, T = N * H, K * H, layout.tokens
    kept = T * NH * b  # what was read, for the output projection
    if config.latent_attention:  # the latents, before and behind their norms
        kept += T * (2 * (config.q_lora_rank or 0) + 2 * config.kv_lora_rank + config.qk_rope_head_dim) * b
    if config.qk_norm:
        kept += T * ((NH + KH) * b + (N + K) * max(b, 4))
    if on_cpu and b <= 4 and compiled.available():  # queries, keys, values, and a number a row; its scratch is its own
        given = T * (NH + 2 * KH) * b
        return kept + given + T * N * 4, 0, given + T * NH * b
    forward = T * (NH + 2 * KH) * b if layout.gathered else 0
    backward = T * (2 * NH + 2 * KH) * b
    most_scores = 0
    for rows, queries, keys, masks in layout.parts:
        # Plain matrix products keep every score. So does torch on a GPU where it has no fused kernel for grouped heads,
        # in 32 bits, and under a mask: all in 32 bits, with keys and values of every head.
        plain = keys <= plain_tokens(b) and (layout.gathered or not masks) if on_cpu else b >= 4 or masks > 0
        own, repeated = (max(b, 4), NH) if plain and not on_cpu else (b, KH)
        asked = rows * (queries * NH + 2 * keys * repeated) * own
        read = rows * queries * NH * b if layout.gathered else 0  # laid out as the queries are, before T it is again
        kept += asked
        backward += asked
        forward += read
        if plain:
            scores = rows * N * queries * keys * own
            kept += scores
            most_scores = max(most_scores, scores)
        else:  # the fused kernel keeps what was read, a number for each query, and a mask in the type of the scores
            kept += read + rows * queries * N * 4 + masks * queries * keys * b
    return kept, forward + most_scores, backward + 2 * most_scores
