"""Causal attention over whole rows, over the documents packed into them, or over prompts and what continues each.

Pure functions of queries, keys, values. Axes: ``B`` rows, ``T`` tokens, ``N`` query heads, ``K`` key/value heads (``N``
a multiple), ``H`` head width (values may have another than queries and keys); ``M`` documents or continuations, ``L``
tokens of the longest; ``P`` prompts, ``S`` keys that a continuation may see.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from aha.model.attention import compiled
from aha.model.rope import Rotation, rotate

# Up to this many tokens plain matrix products beat the fused kernel on a CPU. The fused one is slow in 16 bits.
_PLAIN_TOKENS_FLOAT32 = 64
_PLAIN_TOKENS_16BIT = 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Branches:
    """How one row holds prompts and, after all of them, what continues each: a prompt is computed once for many.

    ``Branches(prompts=(3,), continuations=(2, 1), prompt_of=(0, 0))`` lays out 3 + 2 + 1 tokens. A continuation sees
    its own prompt and itself; it may be empty.
    """

    prompts: tuple[int, ...]  # [P] tokens of each
    continuations: tuple[int, ...]  # [M] tokens of each
    prompt_of: tuple[int, ...]  # [M] which prompt each continues

    def positions(self) -> list[int]:
        """The position of each token in its own sequence."""
        positions = [i for length in self.prompts for i in range(length)]
        for length, prompt in zip(self.continuations, self.prompt_of, strict=True):
            positions += range(self.prompts[prompt], self.prompts[prompt] + length)
        return positions

    def families(self) -> list[list[tuple[int, int]]]:
        """Each prompt and what continues it, as (first token, tokens)."""
        lengths = (*self.prompts, *self.continuations)
        spans = list(zip(itertools.accumulate(lengths, initial=0), lengths, strict=False))
        families = [[span] for span in spans[: len(self.prompts)]]
        for span, prompt in zip(spans[len(self.prompts) :], self.prompt_of, strict=True):
            if span[1]:
                families[prompt].append(span)
        return families


class Attend(Protocol):
    """Who attends to whom, decided once a forward pass and used by every layer."""

    def __call__(self, q_BTNH: Tensor, k_BSKH: Tensor, v_BSKH: Tensor, rotation: Rotation | None = None) -> Tensor:
        """The values each query reads, ``[B, T, N, width of a value]``; ``rotation`` turns queries and keys before."""
        ...


def longest_sequence(tokens: int, segments_BT: Tensor | None, branches: Branches | None) -> int:
    """How many tokens the longest sequence of a batch has: a whole row of ``tokens``, a document, or a prompt and what
    continues it."""
    if branches is not None:
        own = zip(branches.prompt_of, branches.continuations, strict=True)
        return max(*branches.prompts, *(branches.prompts[prompt] + length for prompt, length in own), 0)
    if segments_BT is None:
        return tokens
    starts, lengths = _documents(segments_BT)
    return max(lengths[segments_BT.flatten()[starts] != 0].tolist(), default=0)


def _documents(segments_BT: Tensor) -> tuple[Tensor, Tensor]:
    """First token and length of each run of equal segments, padding's too, counted through all rows."""
    first_BT = torch.ones_like(segments_BT, dtype=torch.bool)
    first_BT[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    starts = first_BT.flatten().nonzero().flatten()
    return starts, torch.diff(starts, append=starts.new_tensor([segments_BT.numel()]))


def plan_attention(like: Tensor, *, rows: int, tokens: int, group: int, segments_BT: Tensor | None) -> Attend:
    """How ``rows`` x ``tokens`` attend: causally, within a document where ``segments_BT`` is given.

    ``like`` has the type and device of the queries; ``group`` is the number of query heads per key/value head. A
    document is a run of equal segment numbers in a row, 0 is padding: what is read there is finite and of no meaning.
    """
    if segments_BT is None:
        return plan_causal(like, rows=rows, tokens=tokens, group=group)
    starts, lengths = _documents(segments_BT)
    real = segments_BT.flatten()[starts] != 0
    lengths_real = lengths[real]
    if compiled.usable(like):
        spans = zip(starts[real].tolist(), lengths_real.tolist(), strict=True)
        return _Compiled(compiled.lay_out([[span] for span in spans], tokens=rows * tokens))
    longest = int(lengths_real.max()) if lengths_real.numel() else 1
    if lengths_real.numel() * longest**2 <= rows * tokens**2:
        return _plan_documents(like, starts[real], lengths_real, longest, rows * tokens, group)
    document_BT = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths).view(rows, tokens)
    mask_BTT = (document_BT[:, :, None] == document_BT[:, None, :]).tril_()
    return _Masked(mask_BTT[:, None])


def plan_causal(like: Tensor, *, rows: int, tokens: int, group: int) -> Attend:
    """Every token attends to itself and to what is left of it in its row."""
    if compiled.usable(like):
        families = [[(row * tokens, tokens)] for row in range(rows if tokens else 0)]
        return _Compiled(compiled.lay_out(families, tokens=rows * tokens))
    if not _plain_is_faster(like, tokens):
        return fused_causal
    return _plan_plain(like, torch.ones(1, tokens, tokens, dtype=torch.bool).tril_(), group)


def plain_tokens(bytes_per_number: int) -> int:
    """Up to how many keys attention on a CPU is plain matrix products, which keep every score."""
    return _PLAIN_TOKENS_FLOAT32 if bytes_per_number >= 4 else _PLAIN_TOKENS_16BIT


def _plain_is_faster(like: Tensor, tokens: int) -> bool:
    return like.device.type == "cpu" and tokens <= plain_tokens(like.dtype.itemsize)


def _plan_plain(like: Tensor, mask_BTS: Tensor, group: int) -> Attend:
    hidden_BTS = torch.zeros(mask_BTS.shape, dtype=like.dtype).masked_fill_(~mask_BTS, float("-inf"))
    return _Plain(hidden_BTS.repeat_interleave(group, 1))


def plan_branches(like: Tensor, branches: Branches, *, group: int) -> Attend:
    """Prompts attend causally, continuations to their prompt and causally to themselves. See ``plan_attention``."""
    if compiled.usable(like):
        return _Compiled(compiled.lay_out(branches.families(), tokens=like.shape[0] * like.shape[1]))
    device = like.device
    prompts_P = torch.tensor(branches.prompts, device=device)
    lengths_M = torch.tensor(branches.continuations, device=device)
    after_P = prompts_P.cumsum(0)
    num_prompt_tokens, num_tokens = sum(branches.prompts), sum(branches.prompts) + sum(branches.continuations)
    longest_prompt, longest = max(branches.prompts), max(branches.continuations, default=0)
    if not longest:
        return _plan_documents(like, after_P - prompts_P, prompts_P, longest_prompt, num_tokens, group)
    starts_M = num_prompt_tokens + lengths_M.cumsum(0) - lengths_M
    of_M = torch.tensor(branches.prompt_of, device=device)
    filled = lengths_M > 0
    starts_M, lengths_M, of_M = starts_M[filled], lengths_M[filled], of_M[filled]
    prompt_slots, prompt_real = _slots(after_P - prompts_P, prompts_P, longest_prompt)
    own_slots, own_real = _slots(starts_M, lengths_M, longest)
    # A prompt's keys stand right before the continuation's own, so that equal prompts need one mask for all.
    before_S = torch.arange(-longest_prompt, 0, device=device)
    seen_MS = before_S >= -prompts_P[of_M, None]
    keys_MS = torch.where(seen_MS, after_P[of_M, None] + before_S, (after_P - prompts_P)[of_M, None])
    if min(branches.prompts) == longest_prompt:
        seen_MS = seen_MS[:1]
    rows = len(seen_MS)
    past_LL = torch.ones(longest, longest, dtype=torch.bool, device=device).tril_()
    mask_MLS = torch.cat((seen_MS[:, None].expand(-1, longest, -1), past_LL.expand(rows, -1, -1)), 2)
    places = torch.cat((prompt_slots[prompt_real], own_slots[own_real]))
    slots = torch.cat((prompt_real.flatten(), own_real.flatten())).nonzero().flatten()
    scatter = torch.empty(num_tokens, dtype=torch.long, device=device).index_copy_(0, places, slots)
    plain = _plain_is_faster(like, longest_prompt + longest)
    return _Branched(
        prompts=prompt_slots.flatten(),
        queries=own_slots.flatten(),
        keys=torch.cat((keys_MS, own_slots), 1).flatten(),
        scatter=scatter,
        longest_prompt=longest_prompt,
        longest=longest,
        causal=plan_causal(like, rows=len(branches.prompts), tokens=longest_prompt, group=group),
        masked=_plan_plain(like, mask_MLS, group) if plain else _Masked(mask_MLS[:, None]),
    )


def _turn(q_BTNH: Tensor, k_BSKH: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor]:
    return (q_BTNH, k_BSKH) if rotation is None else (rotate(q_BTNH, rotation), rotate(k_BSKH, rotation))


def _slots(starts_M: Tensor, lengths_M: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """The flat token of each of ``longest`` slots a document (past its end its last again), and which are real."""
    offset_L = torch.arange(longest, device=starts_M.device)
    return starts_M[:, None] + torch.minimum(offset_L, lengths_M[:, None] - 1), offset_L < lengths_M[:, None]


def fused_causal(
    q_BTNH: Tensor,
    k_BSKH: Tensor,
    v_BSKH: Tensor,
    rotation: Rotation | None = None,
    *,
    mask_B1TS: Tensor | None = None,
) -> Tensor:
    """Causal attention by the device's fused kernel; values may be narrower than keys. Where keys begin before the
    queries, ``mask`` says where each may look."""
    q_BTNH, k_BSKH = _turn(q_BTNH, k_BSKH, rotation)
    hidden: dict[str, Any] = {"attn_mask": mask_B1TS, "is_causal": mask_B1TS is None, "enable_gqa": True}
    q, k, v = q_BTNH.transpose(1, 2), k_BSKH.transpose(1, 2), v_BSKH.transpose(1, 2)
    missing = q.shape[-1] - v.shape[-1]
    if missing <= 0:
        return F.scaled_dot_product_attention(q, k, v, **hidden).transpose(1, 2)
    # The fused kernel wants one width; without it every score of the row would be stored.
    read = F.scaled_dot_product_attention(q, k, F.pad(v, (0, missing)), **hidden)
    return read[..., :-missing].transpose(1, 2)


@dataclasses.dataclass(frozen=True)
class _Compiled:
    """The compiled function, for all of these at once."""

    spans: compiled.Spans

    def __call__(self, q_BTNH: Tensor, k_BSKH: Tensor, v_BSKH: Tensor, rotation: Rotation | None = None) -> Tensor:
        return compiled.attend(q_BTNH, k_BSKH, v_BSKH, rotation, self.spans)


@dataclasses.dataclass(frozen=True)
class _Plain:
    """Matrix products in which the query heads that share a key are rows of one matrix: keys are read once a group."""

    hidden: Tensor  # [B or 1, T * group, S]: 0 where a token may look, -inf elsewhere

    def __call__(self, q_BTNH: Tensor, k_BSKH: Tensor, v_BSKH: Tensor, rotation: Rotation | None = None) -> Tensor:
        q_BTNH, k_BSKH = _turn(q_BTNH, k_BSKH, rotation)
        B, T, N, H = q_BTNH.shape
        (S, K), W = k_BSKH.shape[1:3], v_BSKH.shape[3]
        queries = q_BTNH.reshape(B, T, K, N // K, H).transpose(1, 2).reshape(B * K, T * (N // K), H)
        keys = k_BSKH.transpose(1, 2).reshape(B * K, S, H)
        values = v_BSKH.transpose(1, 2).reshape(B * K, S, W)
        hidden = self.hidden if len(self.hidden) == 1 else self.hidden.repeat_interleave(K, 0)
        scores = torch.baddbmm(hidden.expand(B * K, -1, -1), queries, keys.transpose(1, 2), alpha=H**-0.5)
        read = torch.bmm(scores.softmax(-1), values)
        return read.view(B, K, T, N // K, W).transpose(1, 2).reshape(B, T, N, W)


@dataclasses.dataclass(frozen=True)
class _Masked:
    """Any mask, at the price of every score."""

    mask: Tensor  # [B or 1, 1, T, S], True where a token may look

    def __call__(self, q_BTNH: Tensor, k_BSKH: Tensor, v_BSKH: Tensor, rotation: Rotation | None = None) -> Tensor:
        q_BTNH, k_BSKH = _turn(q_BTNH, k_BSKH, rotation)
        q, k, v = q_BTNH.transpose(1, 2), k_BSKH.transpose(1, 2), v_BSKH.transpose(1, 2)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, enable_gqa=True).transpose(1, 2)


@dataclasses.dataclass(frozen=True)
class _Documents:
    """Packed documents laid out one a row for attention alone, so that the scores across documents cost nothing."""

    gather: Tensor  # [M * L] flat token of each slot; slots past a document's end repeat its last token
    scatter: Tensor  # [B * T] slot of each token; padding reads slot 0
    longest: int
    causal: Attend

    def __call__(self, q_BTNH: Tensor, k_BSKH: Tensor, v_BSKH: Tensor, rotation: Rotation | None = None) -> Tensor:
        q_BTNH, k_BSKH = _turn(q_BTNH, k_BSKH, rotation)
        q, k, v = (_line_up(x, self.gather, self.longest) for x in (q_BTNH, k_BSKH, v_BSKH))
        read = self.causal(q, k, v)
        return read.flatten(0, 1).index_select(0, self.scatter).view(*q_BTNH.shape[:3], -1)


@dataclasses.dataclass(frozen=True)
class _Branched:
    """Prompts and continuations laid out one a row for attention alone; the rest of a layer sees no padding."""

    prompts: Tensor  # [P * longest_prompt] flat token of each slot
    queries: Tensor  # [M * longest]
    keys: Tensor  # [M * S] the prompt's tokens, then the continuation's own
    scatter: Tensor  # [T] slot of each token, prompts' slots first
    longest_prompt: int
    longest: int
    causal: Attend
    masked: Attend

    def __call__(self, q_BTNH: Tensor, k_BSKH: Tensor, v_BSKH: Tensor, rotation: Rotation | None = None) -> Tensor:
        q_BTNH, k_BSKH = _turn(q_BTNH, k_BSKH, rotation)
        q, k, v = (_line_up(x, self.prompts, self.longest_prompt) for x in (q_BTNH, k_BSKH, v_BSKH))
        read_prompts = self.causal(q, k, v)
        keys = self.keys, self.longest_prompt + self.longest
        queries = _line_up(q_BTNH, self.queries, self.longest)
        read_own = self.masked(queries, _line_up(k_BSKH, *keys), _line_up(v_BSKH, *keys))
        read = torch.cat((read_prompts.flatten(0, 1), read_own.flatten(0, 1)))
        return read.index_select(0, self.scatter).view(*q_BTNH.shape[:3], -1)


def _line_up(x_BTNH: Tensor, tokens: Tensor, longest: int) -> Tensor:
    return x_BTNH.flatten(0, 1).index_select(0, tokens).view(-1, longest, *x_BTNH.shape[2:])


def _plan_documents(
    like: Tensor, starts_M: Tensor, lengths_M: Tensor, longest: int, num_tokens: int, group: int
) -> Attend:
    gather_ML, real_ML = _slots(starts_M, lengths_M, longest)
    slots_ML = torch.arange(gather_ML.numel(), device=starts_M.device).view_as(gather_ML)
    scatter = torch.zeros(num_tokens, dtype=torch.long, device=starts_M.device)
    scatter[gather_ML[real_ML]] = slots_ML[real_ML]
    if not gather_ML.numel():  # nothing but padding: every token reads the first one
        gather_ML = scatter[:1]
    causal = plan_causal(like, rows=len(starts_M), tokens=longest, group=group)
    return _Documents(gather_ML.flatten(), scatter, longest, causal)
