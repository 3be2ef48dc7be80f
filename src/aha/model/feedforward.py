"""The dense feed-forward. Axes: ``B`` sequences, ``T`` tokens, ``D`` width, ``F`` feed-forward width."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from aha.model import kernels
from aha.model.product import add_product, made_of, product, take_input, weight_gradient


class DenseFeedForward(nn.Module):
    """SwiGLU (Shazeer 2020, section 2): ``down(silu(gate x) * up x)``.

    ``fused`` is one function with one backward pass; who takes the gradients of inputs and of weights one after the
    other turns it off, or it would compute both twice.
    """

    fused = True

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        maps = self.gate_proj, self.up_proj, self.down_proj
        if self.fused and all(type(linear) is nn.Linear for linear in maps):
            y_BTD: Tensor = _SwiGLU.apply(x_BTD, made_of(x_BTD), *(m.weight for m in maps))  # type: ignore[no-untyped-call]
            return y_BTD
        return cast(Tensor, self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD)))


class _SwiGLU(torch.autograd.Function):
    """Keeps the two inner tensors and computes their product again: two passes less, and a third of the bytes."""

    @staticmethod
    def forward(
        ctx: Any, x_BTD: Tensor, made: tuple[Tensor, ...], gate_FD: Tensor, up_FD: Tensor, down_DF: Tensor
    ) -> Tensor:
        x_MD = x_BTD.reshape(-1, x_BTD.shape[-1])
        gate_MF, up_MF = product(x_MD, gate_FD), product(x_MD, up_FD)
        ctx.num_made = len(made)
        ctx.save_for_backward(*(made or (x_MD,)), gate_MF, up_MF, gate_FD, up_FD, down_DF)
        act_MF = kernels.swiglu_forward(gate_MF, up_MF) if kernels.usable(gate_MF) else F.silu(gate_MF).mul_(up_MF)
        return product(act_MF, down_DF).view(*x_BTD.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTD: Tensor) -> tuple[Tensor | None, ...]:
        x_MD, (gate_MF, up_MF, gate_FD, up_FD, down_DF) = take_input(ctx)
        grad_MD = grad_BTD.reshape(-1, grad_BTD.shape[-1])
        grad_MF = product(grad_MD, down_DF.T)
        if kernels.usable(gate_MF):
            grad_gate, grad_up = kernels.swiglu_backward(gate_MF, up_MF, grad_MF)
            act_MF = grad_MF
        else:
            silu_MF = F.silu(gate_MF)
            grad_up = grad_MF * silu_MF
            grad_gate = torch.ops.aten.silu_backward(grad_MF.mul_(up_MF), gate_MF)
            act_MF = silu_MF.mul_(up_MF)
        needs_x, _, needs_gate, needs_up, needs_down = ctx.needs_input_grad
        grad_x = None
        if needs_x:
            grad_x = add_product(product(grad_gate, gate_FD.T), grad_up, up_FD.T).view(grad_BTD.shape)
        return (
            grad_x,
            None,
            weight_gradient(grad_gate, x_MD) if needs_gate else None,
            weight_gradient(grad_up, x_MD) if needs_up else None,
            weight_gradient(grad_MD, act_MF) if needs_down else None,
        )
