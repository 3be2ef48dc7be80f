"""Training in BF16 with float32 master weights: a twin of the model computes, the model itself is updated.

DeepSeek-V3 (arXiv 2412.19437), section 3.3.3: master weights and accumulated gradients stay in float32; what one
micro-batch adds is computed in BF16.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from aha.model.decoder import Decoder


def build_twin(master: Decoder, optimizer: torch.optim.Optimizer) -> Decoder:
    """A BF16 copy of ``master``. The backward pass of the twin adds to the gradients of ``master``, in their own type,
    and leaves none in the twin; after each step of ``optimizer``, which holds the parameters of ``master``, the twin
    has the new weights, rounded. Buffers are shared.

    Where weights change otherwise, call :func:`refresh_twin`.
    """
    twin = copy.deepcopy(master).to(torch.bfloat16)
    twin.tie()
    for own, other in zip(twin.modules(), master.modules(), strict=True):
        own._buffers.update(other._buffers)
    for parameter, of_master in _pairs(twin, master):
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(_hand_over(of_master))  # type: ignore[no-untyped-call]

    def stepped(*_: Any) -> None:
        refresh_twin(twin, master)

    optimizer.register_step_post_hook(stepped)
    return twin


@torch.no_grad()
def refresh_twin(twin: Decoder, master: Decoder) -> None:
    """The weights of ``master``, rounded, into ``twin``."""
    for parameter, of_master in _pairs(twin, master):
        parameter.copy_(of_master)


def _pairs(twin: Decoder, master: Decoder) -> zip[tuple[nn.Parameter, nn.Parameter]]:
    return zip(twin.parameters(), master.parameters(), strict=True)


def _hand_over(master: nn.Parameter) -> Callable[[Tensor], None]:
    def add(parameter: Tensor) -> None:
        grad, parameter.grad = parameter.grad, None
        assert grad is not None
        if master.grad is None:
            master.grad = grad.to(master.dtype)
        else:
            master.grad.add_(grad)

    return add
