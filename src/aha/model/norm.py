"""Root-mean-square layer norm (Zhang and Sennrich 2019, equation 4) with a backward of few passes over memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from aha.model import kernels


class Made(NamedTuple):
    """What a norm was made of: there anyway, so that who reads the norm need not keep it for the backward pass.

    A norm carries it as its attribute ``made``; a tensor made of a norm, were it a view, does not.
    """

    x: Tensor
    scale: Tensor
    weight: Tensor

    def again(self) -> Tensor:
        """The norm, the same bits."""
        if kernels.usable(self.x, self.weight):
            return kernels.norm_again(self.x, self.weight, self.scale)
        return (self.x.to(self.scale.dtype) * self.scale).to(self.x.dtype) * self.weight


class _AddRMSNorm(torch.autograd.Function):
    """``x``, or ``x + add`` where ``add`` is given, and its norm: what stands between two blocks of a residual stream.

    The scale is computed in at least float32 and the product with the weight in the type of ``x``, as the published
    models do. Keeps the sum, which the residual stream has anyway, and a number a row.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, add: Tensor | None, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = x.contiguous()
        add = None if add is None else add.contiguous()
        if kernels.usable(x, weight):
            total, normed, scale = kernels.norm_forward(x, add, weight, eps)
        else:
            total = x if add is None else x + add
            wide = total if total.dtype in (torch.float32, torch.float64) else total.float()
            norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
            scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
            normed = Made(total, scale, weight).again()
        ctx.save_for_backward(total, scale, weight)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(scale)
        return total, normed, scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor | None, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        total, scale, weight = ctx.saved_tensors
        _, has_add, needs_weight, _ = ctx.needs_input_grad
        if grad is None:
            return grad_total, grad_total if has_add else None, None, None
        if kernels.usable(total, weight):
            more = None if grad_total is None else grad_total.contiguous()
            grad_x, grad_weight = kernels.norm_backward(grad.contiguous(), more, total, weight, scale)
        else:
            unit = (total.to(scale.dtype) * scale).to(total.dtype)
            grad_unit = (grad * weight).to(scale.dtype)
            along = (grad_unit * unit).mean(-1, keepdim=True)
            grad_x = torch.addcmul(grad_unit, unit.to(scale.dtype), along, value=-1).mul_(scale).to(grad.dtype)
            grad_x = grad_x if grad_total is None else grad_x.add_(grad_total)
            grad_weight = (grad * unit).flatten(0, -2).sum(0)
        return grad_x, grad_x if has_add else None, grad_weight if needs_weight else None, None


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last axis."""

    def __init__(self, width: int, *, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.add(x, None)[1]

    def add(self, x: Tensor, update: Tensor | None) -> tuple[Tensor, Tensor]:
        """``x + update`` and its norm."""
        total: Tensor
        normed: Tensor
        total, normed, scale = _AddRMSNorm.apply(x, update, self.weight, self.eps)  # type: ignore[no-untyped-call]
        normed.made = Made(total.detach(), scale, self.weight.detach())  # type: ignore[attr-defined]
        return total, normed
