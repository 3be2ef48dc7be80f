"""One update of a student on its teacher's distributions. Shapes: B rows, T tokens of a row, N tokens with a loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aha.errors import DataError
from aha.model.decoder import Decoder
from aha.objective.distillation import teacher_kl
from aha.objective.logprob import token_logprobs
from aha.objective.nll import nll_loss
from aha.train.balance import DEEPSEEK_V3, Balance, LoadBalancer
from aha.train.batch import PackedBatch
from aha.train.nll_step import mean_loss_ahead
from aha.train.update import on_device_of, update


def distill_step(
    student: Decoder,
    teacher: Decoder,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[PackedBatch],
    *,
    soft: float,
    temperature: float,
    lr: float,
    max_grad_norm: float,
    balance: Balance = DEEPSEEK_V3,
    mtp_weight: float = 0.0,
) -> dict[str, float]:
    """One update on documents: ``soft`` of the loss is the KL from the teacher's distribution to the student's at
    ``temperature``, the rest the likelihood of the token that stands there; the denominator is the loss weight of all
    batches. Metrics: loss (the likelihood's), kl, grad_norm, lr, tokens. InvariantError as of ``policy_step``.

    ``balance`` and ``mtp_weight`` are as in ``nll_step``: modules of multi-token prediction learn the likelihood alone.
    """
    if not batches:
        raise DataError("an update without documents: nothing was packed")
    total_weight = float(sum(batch.weights_BT.sum() for batch in batches))
    balancer = LoadBalancer(student.model.layers if mtp_weight else student.body_layers(), balance)
    num_documents = balancer.count_documents(batches)

    def backward(batch: PackedBatch) -> tuple[Tensor, Tensor]:
        batch = on_device_of(student, batch)
        packed = batch.ids_BT, batch.positions_BT, batch.segments_BT
        learned_N = batch.weights_BT.flatten().nonzero()[:, 0]
        weights_N, targets_N = batch.weights_BT.flatten()[learned_N], batch.targets_BT.flatten()[learned_N]
        with torch.no_grad():
            teacher_NE = teacher(*packed).flatten(0, 1)[learned_N]
        states = (
            student.forward_ahead(batch.ids_BT, batch.targets_BT, *packed[1:]) if mtp_weight else [student(*packed)]
        )
        hidden_ND = states[0].flatten(0, 1)[learned_N]
        heads = student.head_weight, teacher.head_weight
        shared = min(map(len, heads))  # behind them are no tokens, but padding
        own, other = (head[:shared] for head in heads)
        kl_N = teacher_kl(hidden_ND, own, teacher_NE, other, temperature=temperature)
        logp_N, _ = token_logprobs(hidden_ND, student.head_weight, targets_N)
        nll = nll_loss(logp_N, weights_N, total_weight=total_weight)
        kl = (kl_N * weights_N).sum() / total_weight
        mtp_loss = mean_loss_ahead(student, states[1:], batch, total_weight=total_weight)
        loss = soft * kl + (1 - soft) * nll + mtp_weight * mtp_loss
        (loss + balancer.loss(batch, num_sequences=num_documents)).backward()  # type: ignore[no-untyped-call]
        tokens = weights_N.new_tensor(len(weights_N))
        return loss.detach(), torch.stack((tokens, nll.detach(), kl.detach(), mtp_loss.detach()))

    _, figures, norm = update(optimizer, batches, backward, lr=lr, max_grad_norm=max_grad_norm)
    tokens, nll, kl, mtp_loss = (sum(column) for column in zip(*figures, strict=True))
    ahead = {"mtp_loss": mtp_loss} if mtp_weight else {}
    found = {"loss": nll, "kl": kl, **ahead, "grad_norm": norm, "lr": lr, "tokens": tokens}
    return found | balancer.finish(taken=True)
