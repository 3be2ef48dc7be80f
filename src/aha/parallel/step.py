"""One update of a decoder that several processes train as a pipeline."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from aha.errors import InvariantError
from aha.model.decoder import Decoder
from aha.parallel.schedule import Schedule
from aha.parallel.stage import DecoderStage


class Pipe(Protocol):
    """What ``DualPipe`` and ``DualPipeV`` have in common: one process's part of a pipeline."""

    decoder: Decoder
    group: dist.ProcessGroup
    rank: int
    schedule: Schedule
    stages: Mapping[int, DecoderStage]

    def parameters(self) -> list[nn.Parameter]:
        """The weights this process trains, each once: what its optimiser gets."""
        ...

    def forward_backward(self, ids_BT: Tensor, targets_BT: Tensor) -> float:
        """Sets their gradients to those of the whole batch; the loss of the whole batch."""
        ...


def pipeline_step(
    pipe: Pipe, optimizer: torch.optim.Optimizer, ids_BT: Tensor, targets_BT: Tensor, *, max_grad_norm: float
) -> dict[str, float]:
    """One update on a batch, which every process passes whole; metrics: loss, grad_norm (before clipping).

    The norm is that of the whole decoder's gradient, so that all processes clip alike. A loss or norm that is not
    finite raises InvariantError on every process before any weight changes.
    """
    loss = pipe.forward_backward(ids_BT, targets_BT)
    norm = gradient_norm(pipe)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise InvariantError(
            f"update not taken, the weights are unchanged: loss {loss}, gradient norm {norm}; "
            "lower the learning rate or look at these rows"
        )
    if norm > max_grad_norm:
        for weight in pipe.parameters():
            if weight.grad is not None:
                weight.grad.mul_(max_grad_norm / norm)
    optimizer.step()
    return {"loss": loss, "grad_norm": norm}


def gradient_norm(pipe: Pipe) -> float:
    """The norm of the whole decoder's gradient, the same on every process."""
    norms = [weight.grad.norm(dtype=torch.float64) for weight in pipe.parameters() if weight.grad is not None]
    square = torch.stack(norms).square().sum()
    dist.all_reduce(square, group=pipe.group)
    return math.sqrt(square.item() / len(_holders(pipe)[0]))


def gather_weights(pipe: Pipe) -> None:
    """Brings every stage's weights to every process, so that ``pipe.decoder`` is the trained one and can be saved."""
    holders = _holders(pipe)
    with torch.no_grad():
        for index, ranks in enumerate(holders):
            for weight in DecoderStage(pipe.decoder, index, len(holders)).parameters():
                dist.broadcast(weight, group=pipe.group, group_src=min(ranks))


def _holders(pipe: Pipe) -> list[set[int]]:
    """The ranks that have a copy of each stage."""
    found: list[set[int]] = [set() for _ in range(pipe.schedule.num_stages)]
    for (stage, _), rank in pipe.schedule.rank_of.items():
        found[stage].add(rank)
    return found
