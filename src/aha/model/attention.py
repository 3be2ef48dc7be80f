"""Causal attention over whole rows or over the documents packed into them: pure functions of queries, keys, values.

Axes: ``B`` rows, ``T`` tokens, ``N`` query heads, ``K`` key/value heads (``N`` a multiple), ``H`` head width;
``M`` documents, ``L`` tokens of the longest.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

# Up to this many tokens plain matrix products beat the fused kernel on a CPU. The fused one is slow in 16 bits.
_PLAIN_TOKENS_FLOAT32 = 64
_PLAIN_TOKENS_16BIT = 1024


class Attend(Protocol):
    """Who attends to whom, decided once a forward pass and used by every layer."""

    def __call__(self, q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor) -> Tensor:
        """The values each query reads, ``[B, T, N, H]``."""
        ...


def plan_attention(like: Tensor, *, rows: int, tokens: int, group: int, segments_BT: Tensor | None) -> Attend:
    """How ``rows`` x ``tokens`` attend: causally, within a document where ``segments_BT`` is given.

    ``like`` has the type and device of the queries; ``group`` is the number of query heads per key/value head. A
    document is a run of equal segment numbers in a row, 0 is padding: what is read there is finite and of no meaning.
    """
    if segments_BT is None:
        return plan_causal(like, tokens=tokens, group=group)
    first_BT = torch.ones_like(segments_BT, dtype=torch.bool)
    first_BT[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    document_BT = first_BT.flatten().cumsum(0).view(rows, tokens) - 1
    starts = first_BT.flatten().nonzero().flatten()
    lengths = torch.diff(starts, append=starts.new_tensor([rows * tokens]))
    real = segments_BT.flatten()[starts] != 0
    lengths_real = lengths[real]
    longest = int(lengths_real.max()) if lengths_real.numel() else 1
    if lengths_real.numel() * longest**2 <= rows * tokens**2:
        return _plan_documents(like, starts[real], lengths_real, longest, rows * tokens, group)
    mask_BTT = (document_BT[:, :, None] == document_BT[:, None, :]).tril_()
    return _Masked(mask_BTT[:, None])


def plan_causal(like: Tensor, *, tokens: int, group: int) -> Attend:
    """Every token attends to itself and to what is left of it in its row."""
    plain = _PLAIN_TOKENS_FLOAT32 if like.dtype in (torch.float32, torch.float64) else _PLAIN_TOKENS_16BIT
    if like.device.type != "cpu" or tokens > plain:
        return _fused_causal
    future_TS = torch.full((tokens, tokens), float("-inf"), dtype=like.dtype).triu_(1)
    return _Plain(future_TS.repeat_interleave(group, 0))


def _fused_causal(q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor) -> Tensor:
    q, k, v = q_BTNH.transpose(1, 2), k_BTKH.transpose(1, 2), v_BTKH.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)


@dataclasses.dataclass(frozen=True)
class _Plain:
    """Matrix products in which the query heads that share a key are rows of one matrix: keys are read once a group."""

    future: Tensor  # [T * group, T]: 0 where a token may look, -inf to its right

    def __call__(self, q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor) -> Tensor:
        B, T, N, H = q_BTNH.shape
        K = k_BTKH.shape[2]
        queries = q_BTNH.reshape(B, T, K, N // K, H).transpose(1, 2).reshape(B * K, T * (N // K), H)
        keys = k_BTKH.transpose(1, 2).reshape(B * K, T, H)
        values = v_BTKH.transpose(1, 2).reshape(B * K, T, H)
        scores = torch.baddbmm(self.future.expand(B * K, -1, -1), queries, keys.transpose(1, 2), alpha=H**-0.5)
        read = torch.bmm(scores.softmax(-1), values)
        return read.view(B, K, T, N // K, H).transpose(1, 2).reshape(B, T, N, H)


@dataclasses.dataclass(frozen=True)
class _Masked:
    """Any mask, at the price of every score: for packed rows whose documents differ too much in length to line up."""

    mask: Tensor  # [B, 1, T, T], True where a token may look

    def __call__(self, q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor) -> Tensor:
        q, k, v = q_BTNH.transpose(1, 2), k_BTKH.transpose(1, 2), v_BTKH.transpose(1, 2)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, enable_gqa=True).transpose(1, 2)


@dataclasses.dataclass(frozen=True)
class _Documents:
    """Packed documents laid out one a row for attention alone, so that the scores across documents cost nothing."""

    gather: Tensor  # [M * L] flat token of each slot; slots past a document's end repeat its last token
    scatter: Tensor  # [B * T] slot of each token; padding reads slot 0
    longest: int
    causal: Attend

    def __call__(self, q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor) -> Tensor:
        read = self.causal(self._line_up(q_BTNH), self._line_up(k_BTKH), self._line_up(v_BTKH))
        return read.flatten(0, 1).index_select(0, self.scatter).view(q_BTNH.shape)

    def _line_up(self, x_BTNH: Tensor) -> Tensor:
        heads = x_BTNH.shape[2:]
        return x_BTNH.flatten(0, 1).index_select(0, self.gather).view(-1, self.longest, *heads)


def _plan_documents(
    like: Tensor, starts_M: Tensor, lengths_M: Tensor, longest: int, num_tokens: int, group: int
) -> Attend:
    offset_L = torch.arange(longest, device=starts_M.device)
    gather_ML = starts_M[:, None] + torch.minimum(offset_L, lengths_M[:, None] - 1)
    slots_ML = torch.arange(gather_ML.numel(), device=starts_M.device).view_as(gather_ML)
    scatter = torch.zeros(num_tokens, dtype=torch.long, device=starts_M.device)
    real_ML = offset_L < lengths_M[:, None]
    scatter[gather_ML[real_ML]] = slots_ML[real_ML]
    if not gather_ML.numel():  # nothing but padding: every token reads the first one
        gather_ML = scatter[:1]
    return _Documents(gather_ML.flatten(), scatter, longest, plan_causal(like, tokens=longest, group=group))
