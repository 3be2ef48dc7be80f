"""Training in BF16 with float32 weights in two halves: a BF16 parameter computes, the optimiser has 16 bits more of it.

DeepSeek-V3 (arXiv 2412.19437), section 3.3.3, keeps master weights in float32 beside a BF16 copy that computes. The
copy says nothing that the master does not: kept as its upper half it costs nothing (split SGD: Kalamkar et al. 2020,
2005.04680). Gradients are BF16 after one micro-batch, as each computes them, and float32 sums from the second on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def split(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A float32 weight as the nearest BF16 (of two as near, the larger) and what is added to its bits, int16."""
    bits = weight.view(torch.int32)
    upper = (bits + 0x8000) >> 16
    return upper.to(torch.int16).view(torch.bfloat16), (bits - (upper << 16)).to(torch.int16)


def join(upper: Tensor, lower: Tensor) -> Tensor:
    """The float32 weight, bit for bit."""
    return ((upper.view(torch.int16).to(torch.int32) << 16) + lower).view(torch.float32)


@torch.no_grad()
def narrow(module: nn.Module) -> dict[nn.Parameter, Tensor]:
    """Makes the float32 parameters of ``module`` BF16 in place and returns the lower halves of those that learn: for
    ``build_adamw``. What does not learn is rounded."""
    lower = {}
    for parameter in module.parameters():
        parameter.data, rest = split(parameter.data)
        if parameter.requires_grad:
            lower[parameter] = rest
            parameter.grad_dtype = None  # any: see widen_gradients
    return lower


@torch.no_grad()
def widen(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Makes the parameters of ``module`` float32 again, with the lower halves that ``optimizer`` has of them."""
    for parameter in module.parameters():
        lower = optimizer.state.get(parameter, {}).pop("lower", None)
        parameter.grad = None
        parameter.data = parameter.data.float() if lower is None else join(parameter.data, lower)
        parameter.grad_dtype = torch.float32


def widen_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Float32 gradients of narrowed parameters, to which the next micro-batch's can be added without loss."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and parameter.grad_dtype is None:
                parameter.grad = parameter.grad.float()
