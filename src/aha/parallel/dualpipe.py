"""DualPipe over torch's point-to-point messages: what one process does, step by step of the schedule.

Axes: ``B`` sequences of one micro-batch, ``T`` tokens, ``D`` width, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

# Private in torch, but what its own zero-bubble schedules run on: the backward pass cut so that nothing runs twice.
from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight

from aha.errors import InvariantError, SettingError
from aha.model.decoder import Decoder
from aha.parallel.schedule import Kind, Task, build_dualpipe
from aha.parallel.stage import DecoderStage
from aha.parallel.transfers import Receive, Send, Step, plan_transfers

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits ``[B, T, V]`` and targets ``[B, T]`` of a micro-batch into its part of the loss: parts are summed."""


class DualPipe:
    """One process of a pipeline of ``group`` (all processes if left out); each calls the same methods with the same
    arguments.

    Every process passes the whole decoder and uses two stages of it, rank r and rank ``ranks - 1 - r`` the same two:
    one of each pair for each direction. ``SettingError`` for a number of ranks, layers or micro-batches that does not
    fit. The deadline of every wait is the ``timeout`` of the process group.

    What a pair of forward and backward does at the same time on a GPU (hide the messages between experts, DeepSeek-V3
    3.2.1) is not here: the two run one after the other.
    """

    def __init__(
        self, decoder: Decoder, *, num_batches: int, loss: Loss, group: dist.ProcessGroup | None = None
    ) -> None:
        self.decoder, self.loss = decoder, loss
        self.group = group or dist.distributed_c10d._get_default_group()
        self.rank, ranks = dist.get_rank(self.group), dist.get_world_size(self.group)
        self.schedule = build_dualpipe(ranks, num_batches)
        self.steps = plan_transfers(self.schedule)[self.rank]
        place = min(self.rank, ranks - 1 - self.rank)
        self.stages = {index: DecoderStage(decoder, index, ranks) for index in (place, ranks - 1 - place)}

    def parameters(self) -> list[nn.Parameter]:
        """The weights this process trains, each once."""
        return list(nn.ModuleList(self.stages.values()).parameters())

    def forward_backward(self, ids_BT: Tensor, targets_BT: Tensor) -> float:
        """Sets the gradients of this process's weights to those of the whole batch; the loss of the whole batch.

        Both ``[num_batches * B, T]``, the same on every process, on the device of the decoder.
        """
        for weight in self.parameters():
            weight.grad = None
        run = _Run(self, ids_BT, targets_BT)
        for step in self.steps:
            run.do(step)
        run.wait_for_sends()
        loss = torch.zeros((), dtype=torch.float64, device=ids_BT.device) + sum(run.losses)
        dist.all_reduce(loss, group=self.group)
        self._sum_mirrored_gradients()
        return loss.item()

    def _sum_mirrored_gradients(self) -> None:
        """Each direction trained its own copy of a stage: rank r and its mirror swap gradients and add."""
        gradients = [weight.grad for weight in self.parameters() if weight.grad is not None]
        own = torch.cat([gradient.flatten() for gradient in gradients])
        other, mirror = torch.empty_like(own), len(self.schedule.ranks) - 1 - self.rank
        swap = [self.message(dist.isend, own, mirror), self.message(dist.irecv, other, mirror)]
        for work in dist.batch_isend_irecv(swap):
            wait(work, f"rank {self.rank}: the gradients of rank {mirror}")
        totals = torch.split(own + other, [gradient.numel() for gradient in gradients])
        for gradient, total in zip(gradients, totals, strict=True):
            gradient.copy_(total.view_as(gradient))

    def message(self, operation: Callable[..., Any], tensor: Tensor, peer: int) -> dist.P2POp:
        """A send or receive of this process's group."""
        return dist.P2POp(operation, tensor, group=self.group, group_peer=peer)


class _Held(NamedTuple):
    """Of a stage and a micro-batch, from its forward pass on: input, and output or (last stage) loss."""

    x: Tensor
    y: Tensor


class _Owed(NamedTuple):
    """Of a stage and a micro-batch, from its input gradient on: what its weights' gradient needs."""

    held: _Held
    gradient: Tensor | None  # of the output; nothing at the loss
    groups: list[dict[str, Any]] | None  # torch's, of the weights; nothing at the first stage


class _Run:
    """One pass over the schedule: what is held between its steps."""

    def __init__(self, pipe: DualPipe, ids_BT: Tensor, targets_BT: Tensor) -> None:
        num = pipe.schedule.num_batches
        if ids_BT.shape[0] % num or ids_BT.shape != targets_BT.shape:
            raise SettingError(
                f"ids {list(ids_BT.shape)} and targets {list(targets_BT.shape)} must have one shape, and a number of "
                f"rows that {num} micro-batches divide"
            )
        self.pipe, self.last = pipe, pipe.schedule.num_stages - 1
        self.ids, self.targets = ids_BT.chunk(num), targets_BT.chunk(num)
        self.losses: list[Tensor] = []
        self._results: dict[Task, Tensor] = {}  # made here or received, until they are used or sent
        self._receiving: dict[Task, tuple[int, dist.Work]] = {}
        self._sending: list[tuple[Task, int, Tensor, dist.Work]] = []
        self._held: dict[tuple[int, int], _Held] = {}
        self._owed: dict[tuple[int, int], _Owed] = {}

    def do(self, step: Step) -> None:
        if isinstance(step, Send):
            self._send(step)
        elif isinstance(step, Receive):
            self._receive(step)
        elif step.kind is Kind.FORWARD:
            self._forward(step)
        elif step.kind is Kind.WEIGHT:
            self._weight(self.pipe.stages[step.stage], self._owed.pop((step.stage, step.batch)))
        else:
            self._backward(step)

    def _send(self, step: Send) -> None:
        tensor = self._results.pop(step.result).detach().contiguous()
        (work,) = dist.batch_isend_irecv([self.pipe.message(dist.isend, tensor, step.peer)])
        self._sending.append((step.result, step.peer, tensor, work))

    def _receive(self, step: Receive) -> None:
        ids_BT, weight = self.ids[step.result.batch], self.pipe.decoder.lm_head.weight
        tensor = torch.empty(*ids_BT.shape, weight.shape[1], dtype=weight.dtype, device=ids_BT.device)
        (work,) = dist.batch_isend_irecv([self.pipe.message(dist.irecv, tensor, step.peer)])
        self._receiving[step.result] = (step.peer, work)
        self._results[step.result] = tensor

    def _take(self, result: Task) -> Tensor:
        peer, work = self._receiving.pop(result)
        wait(work, f"rank {self.pipe.rank}: {result} from rank {peer}")
        return self._results.pop(result)

    def _forward(self, task: Task) -> None:
        first = task.stage == 0
        x = self.ids[task.batch] if first else self._take(task._replace(stage=task.stage - 1)).requires_grad_()
        y = self.pipe.stages[task.stage](x)
        if task.stage == self.last:
            y = self.pipe.loss(y, self.targets[task.batch])
            self.losses.append(y.detach().clone())
        else:
            self._results[task] = y
        self._held[task.stage, task.batch] = _Held(x, y)

    def _backward(self, task: Task) -> None:
        held, stage = self._held.pop((task.stage, task.batch)), self.pipe.stages[task.stage]
        gradient = None if task.stage == self.last else self._take(Task(Kind.INPUT, task.stage + 1, task.batch))
        split = task.kind is Kind.INPUT
        groups = None
        if task.stage and split:
            gradients = None if gradient is None else [gradient]
            _, groups = stage_backward_input([held.y], gradients, [held.x], stage.parameters())
        elif not split:
            held.y.backward(gradient)  # type: ignore[no-untyped-call]
        if split:
            self._owed[task.stage, task.batch] = _Owed(held, gradient, groups)
        if held.x.grad is not None:
            self._results[task._replace(kind=Kind.INPUT)] = held.x.grad

    def _weight(self, stage: DecoderStage, owed: _Owed) -> None:
        if owed.groups is None:  # the first stage: nobody waits for a gradient of ids, so nothing was done before
            owed.held.y.backward(owed.gradient)  # type: ignore[no-untyped-call]
        else:
            stage_backward_weight(stage.parameters(), owed.groups)

    def wait_for_sends(self) -> None:
        for result, peer, _, work in self._sending:
            wait(work, f"rank {self.pipe.rank}: rank {peer} to take {result}")


def wait(work: dist.Work, what: str) -> None:
    """Waits as long as the process group allows; ``InvariantError`` says what did not come."""
    try:
        work.wait()
    except RuntimeError as error:
        raise InvariantError(f"waited in vain, {what}: {error}") from error
