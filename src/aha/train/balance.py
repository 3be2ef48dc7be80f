"""Keeps the load of experts even while a model trains. A model without experts has no routers, and nothing happens.

Axes: ``M`` tokens, ``E`` experts, ``K`` chosen experts, ``S`` sequences, ``L`` layers with experts. A *part* is a
document, or a prompt or continuation of a row that shares prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed
from torch import Tensor, nn

from aha.config import Frozen, NotNegative
from aha.model.moe import Routed, Router
from aha.objective.balance import max_violation, sequence_balance_loss, update_bias
from aha.train.batch import LabelledBatch, PackedBatch, PolicyBatch, PreferenceBatch, StepBatch

Rows = PackedBatch | PreferenceBatch | LabelledBatch | StepBatch
"""Batches of whole rows: documents packed into them, or a text each."""


class Balance(Frozen):
    """``loss`` is the factor (alpha) of the sequence-wise loss, ``speed`` (gamma) the step of the choice's bias.

    The defaults are DeepSeek-V3's (2412.19437, section 4.2).
    """

    loss: NotNegative = 1e-4
    speed: NotNegative = 1e-3


DEEPSEEK_V3 = Balance()


class LoadBalancer:
    """One update's view of the routers in ``layers`` that learn, which each micro-batch of it runs: collects what it
    chose, then moves the biases once."""

    def __init__(self, layers: nn.Module, settings: Balance) -> None:
        self._settings = settings
        self._routers = [m for m in layers.modules() if isinstance(m, Router) and m.weight.requires_grad]
        self._counts: list[Tensor] = []  # [L, E] of each micro-batch
        self._uneven: list[Tensor] = []  # its part of the loss before alpha, mean over layers

    def count_documents(self, batches: Sequence[PackedBatch]) -> int:
        """Documents in all batches; 0 where nobody asks, without routers."""
        return sum(int(_parts_of_documents(batch)[1]) for batch in batches) if self._routers else 0

    def loss(self, batch: Rows | PolicyBatch, *, num_sequences: int) -> Tensor | float:
        """What to add to the loss of the micro-batch just computed: alpha times the mean over all sequences, summed
        over layers. A completion's sequence is its prompt and itself; a text with labelled steps ends at the last."""
        if not self._routers:
            return 0.0
        losses, counts = [], []
        for router in self._routers:
            assert router.routed is not None, "a micro-batch without a pass with gradients"
            routed, router.routed = router.routed, None
            counts_SE, affinities_SE, tokens_S, load_E = _sums(routed, batch)
            losses.append(sequence_balance_loss(counts_SE, affinities_SE, tokens_S, router.rule.num_chosen).sum())
            counts.append(load_E)
        self._counts.append(torch.stack(counts))
        total = torch.stack(losses).sum() / num_sequences
        self._uneven.append(total.detach() / len(self._routers))
        return self._settings.loss * total

    def finish(self, *, taken: bool) -> dict[str, float]:
        """After the step, if it was ``taken``: moves every bias by the counts of all micro-batches and ranks.

        Metrics: max_vio (mean over layers of MaxVio of the update's load) and balance (mean over layers and sequences
        of the sequence-wise loss before alpha, 1 when even); none without experts or without micro-batches.
        """
        if not self._counts:
            return {}
        counts_LE = torch.stack(self._counts).sum(0)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(counts_LE)
        if taken:
            for router, counts_E in zip(self._routers, counts_LE, strict=True):
                if router.rule.sigmoid:
                    bias_E = router.e_score_correction_bias
                    bias_E.copy_(update_bias(bias_E, counts_E, speed=self._settings.speed))
        uneven = torch.stack(self._uneven).sum()
        return {"max_vio": float(max_violation(counts_LE).mean()), "balance": float(uneven)}


def _sums(routed: Routed, batch: Rows | PolicyBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Choices and shares of affinity summed over each sequence, ``[S, E]`` each, its tokens ``[S]``, and the load
    ``[E]`` that was computed, padding left out."""
    scores_ME, experts_MK = routed
    E, device = scores_ME.shape[1], scores_ME.device
    shares_ME = scores_ME / scores_ME.sum(-1, keepdim=True)
    if isinstance(batch, PolicyBatch):
        branches = batch.branches
        lengths = torch.tensor((*branches.prompts, *branches.continuations), device=device)
        num_parts = len(lengths)
        part_M = torch.arange(num_parts, device=device).repeat_interleave(lengths)
    else:
        part_M, num = _parts_of_documents(batch)
        num_parts = int(num)
    # One part more takes the padding.
    counts_PE = torch.bincount((part_M[:, None] * E + experts_MK).flatten(), minlength=(num_parts + 1) * E)
    counts_PE = counts_PE.view(-1, E)[:num_parts]
    shares_PE = shares_ME.new_zeros(num_parts + 1, E).index_add(0, part_M, shares_ME)[:num_parts]
    tokens_P = torch.bincount(part_M, minlength=num_parts + 1)[:num_parts]
    load_E = counts_PE.sum(0)
    if isinstance(batch, PolicyBatch):
        first = len(batch.branches.prompts)
        prompt_S = torch.tensor(batch.branches.prompt_of, device=device)
        counts_PE = counts_PE[first:] + counts_PE[prompt_S]
        shares_PE = shares_PE[first:] + shares_PE[prompt_S]
        tokens_P = tokens_P[first:] + tokens_P[prompt_S]
    return counts_PE, shares_PE, tokens_P, load_E


def _parts_of_documents(batch: Rows) -> tuple[Tensor, Tensor]:
    """The document of each token, counted from 0 over the batch (padding: their number), and their number."""
    segments_BT = batch.segments_BT if isinstance(batch, PackedBatch) else _one_a_row(batch)
    first_BT = segments_BT != 0
    first_BT[:, 1:] &= segments_BT[:, 1:] != segments_BT[:, :-1]
    num = first_BT.sum()
    number_M = first_BT.flatten().cumsum(0) - 1
    return torch.where(segments_BT.flatten() != 0, number_M, num), num


def _one_a_row(batch: PreferenceBatch | LabelledBatch | StepBatch) -> Tensor:
    """Segments [B, T] of rows that hold one text each, up to the last token that counts."""
    if isinstance(batch, StepBatch):
        ids_BT = batch.ids_BT
        last_B = torch.zeros_like(ids_BT[:, 0]).scatter_reduce(0, batch.rows_N, batch.places_N, "amax")
    else:
        ids_BT, last_B = (
            (batch.ids_RT, batch.last_R) if isinstance(batch, PreferenceBatch) else (batch.ids_BT, batch.last_B)
        )
    return (torch.arange(ids_BT.shape[1], device=ids_BT.device) <= last_B[:, None]).long()
