"""Root-mean-square layer norm (Zhang and Sennrich 2019, equation 4) with a backward of few passes over memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _RMSNorm(torch.autograd.Function):
    """Twice as fast, forward and backward together, as autograd through ``F.rms_norm`` on a CPU.

    The scale is computed in at least float32 and the product with the weight in the type of ``x``, as the published
    models do.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        unit = (wide * scale).to(x.dtype)
        ctx.save_for_backward(unit, scale, weight)
        normed: Tensor = unit * weight
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        unit, scale, weight = ctx.saved_tensors
        needs_x, needs_weight, _ = ctx.needs_input_grad
        grad_x = grad_weight = None
        if needs_weight:
            grad_weight = (grad * unit).flatten(0, -2).sum(0)
        if needs_x:
            grad_unit = (grad * weight).to(scale.dtype)
            along = (grad_unit * unit).mean(-1, keepdim=True)
            grad_x = torch.addcmul(grad_unit, unit.to(scale.dtype), along, value=-1).mul_(scale).to(grad.dtype)
        return grad_x, grad_weight, None


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last axis."""

    def __init__(self, width: int, *, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = _RMSNorm.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]
        return normed
