"""Gradient checkpointing (Chen et al. 2016, 1604.06174): a layer keeps its input and is computed again for its
gradient. A third more arithmetic; of all layers' activations those of one are in memory at a time."""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from aha.errors import SettingError
from aha.model.attention.plan import Attend
from aha.model.decoder import Decoder
from aha.model.rope import Rotation


def checkpoint_layers(decoder: Decoder, number: int | None = None) -> None:
    """From now on the first ``number`` layers of the body, or all, are computed again in the backward pass; gradients
    stay the same bits. They reach the parameters themselves: ``torch.autograd.grad`` does not see them.

    ``SettingError`` for a mixture of experts: its load is counted while it computes, and would be counted twice.
    """
    if decoder.config.n_routed_experts:
        raise SettingError("checkpointing=true with experts: their load would be counted twice; leave it out")
    for layer in islice(decoder.body_layers(), number):
        layer.forward = partial(_run, layer, layer.forward)


def _run(layer: nn.Module, forward: Any, x_BTD: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
    # The parameters are given so that the output has a gradient where the input has none.
    y_BTD: Tensor = _Again.apply(partial(forward, rotation=rotation, attend=attend), x_BTD, *layer.parameters())  # type: ignore[no-untyped-call]
    return y_BTD


class _Again(torch.autograd.Function):
    """A layer that keeps its input alone. torch's own imports its compiler, 65 MB."""

    @staticmethod
    def forward(ctx: Any, compute: Any, x_BTD: Tensor, *parameters: Tensor) -> Tensor:
        ctx.compute = compute
        ctx.save_for_backward(x_BTD)
        y_BTD: Tensor = compute(x_BTD)
        return y_BTD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTD: Tensor) -> tuple[Tensor | None, ...]:
        x_BTD = ctx.saved_tensors[0].detach().requires_grad_(ctx.needs_input_grad[1])
        with torch.enable_grad():
            y_BTD = ctx.compute(x_BTD)
        torch.autograd.backward(y_BTD, grad_BTD)
        return None, x_BTD.grad, *(None for _ in ctx.needs_input_grad[2:])
