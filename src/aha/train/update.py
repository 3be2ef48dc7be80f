"""One update of the weights, whatever is learned: sum over micro-batches, check, clip, step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from aha.errors import InvariantError
from aha.train.batch import LabelledBatch, PackedBatch, PolicyBatch, PreferenceBatch, StepBatch
from aha.train.halves import widen_gradients
from aha.train.optimizer import clip_grad_norm, gradient_norm, set_learning_rate

Batch = TypeVar("Batch", PolicyBatch, PackedBatch, PreferenceBatch, LabelledBatch, StepBatch)


def update(
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    backward: Callable[[Batch], tuple[Tensor, Tensor]],
    *,
    lr: float,
    max_grad_norm: float,
    skip_above: float = math.inf,
) -> tuple[float, list[list[float]], float]:
    """Gradients of all batches summed, checked, clipped, applied: the loss, each batch's figures, the gradient's norm.

    A norm over ``skip_above`` leaves weights and moments as they are. ``backward`` adds a batch's gradients and returns
    its part of the loss and a vector of figures. Numbers leave the device once, after the last batch. Without a batch
    the step is taken with gradients of 0.

    Raises ``InvariantError``, which names the batches to blame, where a loss or a gradient is not finite; no weight has
    changed then.
    """
    optimizer.zero_grad(set_to_none=True)
    parts: list[tuple[Tensor, Tensor]] = []
    for batch in batches:
        if parts:
            widen_gradients(optimizer)
        parts.append(backward(batch))
    if not parts:  # as if rows without a gradient had been computed: moments and weight decay go on
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
    losses = torch.stack([loss for loss, _ in parts]).tolist() if parts else []
    figures = torch.stack([row for _, row in parts]).tolist() if parts else []
    norm = gradient_norm(optimizer)
    if not (math.isfinite(norm) and all(map(math.isfinite, losses))):
        message = _describe_failure(optimizer, batches, backward, losses, norm)
        optimizer.zero_grad(set_to_none=True)
        raise InvariantError(message)
    if norm > skip_above:
        optimizer.zero_grad(set_to_none=True)
        return sum(losses), figures, norm
    clip_grad_norm(optimizer, max_grad_norm, norm=norm)
    set_learning_rate(optimizer, lr)
    optimizer.step()
    return sum(losses), figures, norm


def _describe_failure(
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    backward: Callable[[Batch], tuple[Tensor, Tensor]],
    losses: Sequence[float],
    norm: float,
) -> str:
    """Says which batches are to blame; their gradients are computed again one by one, which only a failure pays for."""
    blamed = []
    for number, (batch, loss) in enumerate(zip(batches, losses, strict=True)):
        optimizer.zero_grad(set_to_none=True)
        backward(batch)
        own_norm = gradient_norm(optimizer)
        if not (math.isfinite(loss) and math.isfinite(own_norm)):
            name = f"micro-batch {number} of {len(batches)}{_rows(batch)}"
            blamed.append(f"{name}: loss {loss}, gradient norm {own_norm}")
    which = "; ".join(blamed) or f"every micro-batch alone is finite, but the norm of their sum is {norm}"
    return f"update not taken, the weights are unchanged: {which}; lower the learning rate or look at these rows"


def _rows(batch: PolicyBatch | PackedBatch | PreferenceBatch | LabelledBatch | StepBatch) -> str:
    if isinstance(batch, PolicyBatch):
        return f" (rows {first_eight(batch.rows)})"
    if isinstance(batch, PreferenceBatch):
        return f" (pairs {first_eight(batch.pairs)})"
    if isinstance(batch, LabelledBatch | StepBatch):
        return f" (texts {first_eight(batch.texts)})"
    return ""


def first_eight(indices: Sequence[int]) -> str:
    """Them as words, the ones behind left out: ``0, 1, 2, 3, 4, 5, 6, 7, ...``."""
    return ", ".join(map(str, indices[:8])) + (", ..." if len(indices) > 8 else "")


def on_device_of(module: nn.Module, batch: Batch) -> Batch:
    """``batch`` with its tensors where ``module`` computes."""
    device = next(module.parameters()).device
    values = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    moved: dict[str, Any] = {name: v.to(device) for name, v in values.items() if isinstance(v, Tensor)}
    return dataclasses.replace(batch, **moved)
