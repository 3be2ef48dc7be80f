"""The embedding of a model whose head is the same weight: its gradient is added, row by row, to the head's."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS_FROM = 2**19
"""Numbers of a table from which on it is worth while; below, a gradient made twice costs less than the calls."""


def build_embedding(table: Tensor, *, tied: bool) -> nn.Embedding:
    """An embedding that reads ``table`` ``[V, D]``; ``tied``: the head is the same weight."""
    kind = TiedEmbedding if tied and table.numel() >= ROWS_FROM else nn.Embedding
    embedding: nn.Embedding = kind.from_pretrained(table, freeze=False)  # type: ignore[no-untyped-call]
    return embedding


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
    if weight.grad is None:
        weight.grad = grad.to_dense()
    else:
        weight.grad.index_add_(0, grad._indices()[0], grad._values().to(weight.grad.dtype))
