"""DualPipeV as torch runs it: its own schedule and stages over slices of the decoder.

Axes: ``B`` sequences of one micro-batch, ``T`` tokens.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, ScheduleDualPipeV

from aha.model.decoder import Decoder
from aha.parallel.dualpipe import Loss
from aha.parallel.schedule import build_dualpipev
from aha.parallel.stage import DecoderStage


class DualPipeV:
    """One process of a pipeline of ``group``; used as :class:`aha.parallel.dualpipe.DualPipe` is.

    Rank r has stages r and ``2 * ranks - 1 - r``; each stage is on one process only, and there is nothing to sum.
    """

    def __init__(
        self, decoder: Decoder, *, num_batches: int, loss: Loss, group: dist.ProcessGroup | None = None
    ) -> None:
        self.decoder = decoder
        self.group = group or dist.distributed_c10d._get_default_group()
        self.rank, ranks = dist.get_rank(self.group), dist.get_world_size(self.group)
        self.schedule = build_dualpipev(ranks, num_batches)
        num = self.schedule.num_stages
        self.stages = {index: DecoderStage(decoder, index, num) for index in (self.rank, num - 1 - self.rank)}
        device = decoder.lm_head.weight.device
        parts = [PipelineStage(stage, index, num, device, group=self.group) for index, stage in self.stages.items()]
        # Gradients are not divided by the micro-batches: the loss has its denominator already.
        self._torch = ScheduleDualPipeV(list(parts), num_batches, loss_fn=loss, scale_grads=False)

    def parameters(self) -> list[nn.Parameter]:
        """The weights this process trains, each once."""
        return list(nn.ModuleList(self.stages.values()).parameters())

    def forward_backward(self, ids_BT: Tensor, targets_BT: Tensor) -> float:
        """Sets the gradients of this process's weights to those of the whole batch; the loss of the whole batch."""
        for weight in self.parameters():
            weight.grad = None
        losses: list[Tensor] = []
        if self.rank == 0:  # the first stage and the last are here
            self._torch.step(ids_BT, target=targets_BT, losses=losses, return_outputs=False)
        else:
            self._torch.step(return_outputs=False)
        loss = torch.zeros((), dtype=torch.float64, device=ids_BT.device) + sum(part.detach() for part in losses)
        dist.all_reduce(loss, group=self.group)
        return loss.item()
