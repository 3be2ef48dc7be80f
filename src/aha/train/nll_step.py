"""One update on documents: the likelihood of their tokens, and what multi-token prediction says of later ones.

Shapes: B rows, T tokens of a row, N tokens that have a loss, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from aha.errors import DataError
from aha.model.decoder import Decoder
from aha.objective.logprob import token_logprobs
from aha.objective.mtp import targets_ahead
from aha.objective.nll import nll_loss
from aha.train.balance import DEEPSEEK_V3, Balance, LoadBalancer
from aha.train.batch import PackedBatch
from aha.train.update import on_device_of, update


def nll_step(
    decoder: Decoder,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[PackedBatch],
    *,
    lr: float,
    max_grad_norm: float,
    balance: Balance = DEEPSEEK_V3,
    mtp_weight: float = 0.0,
) -> dict[str, float]:
    """One update on documents; the denominator is the loss weight of all batches. Metrics: loss, grad_norm, lr, tokens.

    ``tokens`` counts those with a weight. With ``mtp_weight`` the modules of multi-token prediction learn too: it times
    ``mtp_loss``, the mean of their losses, is added to what is descended (``loss`` stays the body's). ``balance``, its
    metrics and InvariantError are as in ``policy_step``.
    """
    balancer = LoadBalancer(decoder.model.layers if mtp_weight else decoder.body_layers(), balance)
    return _document_step(
        decoder, optimizer, batches, balancer, lr=lr, max_grad_norm=max_grad_norm, mtp_weight=mtp_weight
    )


def mtp_step(
    decoder: Decoder,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[PackedBatch],
    *,
    lr: float,
    max_grad_norm: float,
    balance: Balance = DEEPSEEK_V3,
) -> dict[str, float]:
    """One update of the modules of multi-token prediction alone, which ``optimizer`` holds: nothing reaches the body.

    Metrics: mtp_loss. Raises InvariantError as ``policy_step`` does.
    """
    own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    body = [p for p in decoder.parameters() if p.requires_grad and id(p) not in own]
    for parameter in body:
        parameter.requires_grad_(False)
    try:
        balancer = LoadBalancer(decoder.modules_ahead(), balance)
        metrics = _document_step(
            decoder, optimizer, batches, balancer, lr=lr, max_grad_norm=max_grad_norm, mtp_weight=1.0
        )
    finally:
        for parameter in body:
            parameter.requires_grad_(True)
    return {"mtp_loss": metrics["mtp_loss"]}


def _document_step(
    decoder: Decoder,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[PackedBatch],
    balancer: LoadBalancer,
    *,
    lr: float,
    max_grad_norm: float,
    mtp_weight: float,
) -> dict[str, float]:
    if not batches:
        raise DataError("an update without documents: nothing was packed")
    total_weight = float(sum(batch.weights_BT.sum() for batch in batches))
    num_documents = balancer.count_documents(batches)

    def backward(batch: PackedBatch) -> tuple[Tensor, Tensor]:
        batch = on_device_of(decoder, batch)
        loss, figures = compute_nll_loss(decoder, batch, total_weight=total_weight, mtp_weight=mtp_weight)
        (loss + balancer.loss(batch, num_sequences=num_documents)).backward()  # type: ignore[no-untyped-call]
        return loss.detach(), figures

    _, figures, norm = update(optimizer, batches, backward, lr=lr, max_grad_norm=max_grad_norm)
    tokens, loss, mtp_loss = (sum(column) for column in zip(*figures, strict=True))
    ahead = {"mtp_loss": mtp_loss} if mtp_weight else {}
    return {"loss": loss, **ahead, "grad_norm": norm, "lr": lr, "tokens": tokens, **balancer.finish(taken=True)}


def compute_nll_loss(
    decoder: Decoder, batch: PackedBatch, *, total_weight: float, mtp_weight: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The micro-batch's part of what is descended, a scalar, and [3]: its tokens, the body's loss, that of multi-token
    prediction (0 without ``mtp_weight``)."""
    batch = on_device_of(decoder, batch)
    packed = batch.positions_BT, batch.segments_BT
    states = (
        decoder.forward_ahead(batch.ids_BT, batch.targets_BT, *packed)
        if mtp_weight
        else [decoder(batch.ids_BT, *packed)]
    )
    loss = _loss_of(decoder, states[0], batch, ahead=0, total_weight=total_weight)
    mtp_loss = mean_loss_ahead(decoder, states[1:], batch, total_weight=total_weight)
    tokens = (batch.weights_BT != 0).sum().to(loss.dtype)
    return loss + mtp_weight * mtp_loss, torch.stack((tokens, loss.detach(), mtp_loss.detach()))


def mean_loss_ahead(
    decoder: Decoder, states: Sequence[Tensor], batch: PackedBatch, *, total_weight: float
) -> Tensor:
    """The mean of what the modules of multi-token prediction lose, a scalar; ``states`` are theirs, the first one's
    first. 0 without any."""
    losses = [
        _loss_of(decoder, hidden_BTD, batch, ahead=ahead, total_weight=total_weight)
        for ahead, hidden_BTD in enumerate(states, 1)
    ]
    return torch.stack(losses).mean() if losses else batch.weights_BT.new_zeros(())


def _loss_of(
    decoder: Decoder, hidden_BTD: Tensor, batch: PackedBatch, *, ahead: int, total_weight: float
) -> Tensor:
    """The likelihood's loss of the tokens that are ``ahead`` of the next."""
    targets_BT, weights_BT = batch.targets_BT, batch.weights_BT
    if ahead:
        targets_BT, weights_BT = targets_ahead(targets_BT, weights_BT, batch.segments_BT, ahead=ahead)
    hidden_ND, targets_N, weights_N = hidden_BTD.flatten(0, 1), targets_BT.flatten(), weights_BT.flatten()
    learned_N = weights_N.nonzero()[:, 0]
    if len(learned_N) < len(weights_N):
        hidden_ND = hidden_ND.index_select(0, learned_N)
        targets_N, weights_N = targets_N[learned_N], weights_N[learned_N]
    slope = None if ahead else partial(_share, -weights_N / total_weight)
    logp_N, _ = token_logprobs(hidden_ND, decoder.head_weight, targets_N, slope=slope)
    return nll_loss(logp_N, weights_N, total_weight=total_weight)


def _share(share_N: Tensor, logp_n: Tensor, part: slice) -> Tensor:
    return share_N[part]
