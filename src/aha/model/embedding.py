"""Embeddings by the gradients that they make: exact sums in 16 bits, and rows added to a head that is the same weight.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ROWS_FROM = 2**19
"""Numbers of a table from which on it is worth while; below, a gradient made twice costs less than the calls."""


def build_embedding(table: Tensor, *, tied: bool) -> nn.Embedding:
    """An embedding that reads ``table`` ``[V, D]``; ``tied``: the head is the same weight."""
    kind = TiedEmbedding if tied and table.numel() >= ROWS_FROM else UntiedEmbedding
    embedding: nn.Embedding = kind.from_pretrained(table, freeze=False)  # type: ignore[no-untyped-call]
    return embedding


class UntiedEmbedding(nn.Embedding):
    """On a CPU PyTorch adds the gradients of a token's places one by one in the weight's own type: in 16 bits the sum
    of a frequent token stops growing where it is 256 times an addend. Here they are summed in float32."""

    def forward(self, ids: Tensor) -> Tensor:
        if not (self.weight.is_cpu and self.weight.itemsize == 2 and isinstance(self.weight, nn.Parameter)):
            return F.embedding(ids, self.weight)
        rows: Tensor = _Rows.apply(ids, self.weight)  # type: ignore[no-untyped-call]
        return rows


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.like = weight.shape, weight.dtype
        return F.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        shape, dtype = ctx.like
        found, sums = _summed(ctx.saved_tensors[0].flatten(), grad.flatten(0, -2))
        return None, torch.zeros(shape, dtype=dtype).index_copy_(0, found, sums.to(dtype))


def _summed(ids_N: Tensor, rows_ND: Tensor) -> tuple[Tensor, Tensor]:
    """The different ids, and the float32 sum of each one's rows."""
    found, place_N = torch.unique(ids_N, return_inverse=True)
    sums = torch.zeros(len(found), rows_ND.shape[1], device=rows_ND.device)
    return found, sums.index_add_(0, place_N, rows_ND.float())


class TiedEmbedding(nn.Embedding):
    """Autograd would make a gradient as large as the table for the few rows that were read, and add it to the head's.
    Here the rows' own gradients are added to ``weight.grad``; ``torch.autograd.grad`` does not see them."""

    def forward(self, ids: Tensor) -> Tensor:
        learns = torch.is_grad_enabled() and self.weight.requires_grad
        if not (learns and isinstance(self.weight, nn.Parameter)):  # torch.func gives it other tensors
            return F.embedding(ids, self.weight)
        read = self.weight.detach().requires_grad_()
        read.register_post_accumulate_grad_hook(partial(_hand_over, self.weight))  # type: ignore[no-untyped-call]
        return F.embedding(ids, read, sparse=True)


def _hand_over(weight: Tensor, read: Tensor) -> None:
    grad, read.grad = read.grad, None
    assert grad is not None
    ids_N, rows_ND = grad._indices()[0], grad._values()
    if rows_ND.itemsize == 2:
        ids_N, rows_ND = _summed(ids_N, rows_ND)
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    weight.grad.index_add_(0, ids_N, rows_ND.to(weight.grad.dtype))
