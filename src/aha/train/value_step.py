"""One update of a critic on the returns of completion tokens. Shapes: N completion tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aha.model.heads import ValueModel
from aha.objective.value import value_loss
from aha.train.balance import DEEPSEEK_V3, Balance, LoadBalancer
from aha.train.batch import PolicyBatch
from aha.train.update import on_device_of, update


def value_step(
    model: ValueModel,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[PolicyBatch],
    returns: Sequence[Tensor],
    old_values: Sequence[Tensor],
    *,
    clip: float | None,
    lr: float,
    max_grad_norm: float,
    balance: Balance = DEEPSEEK_V3,
) -> dict[str, float]:
    """One update of a critic; ``returns`` and ``old_values`` have each batch's [N]. Mean over all tokens. ``balance``
    is as in ``policy_step``.

    Metrics: value_loss, value_grad_norm, with experts value_max_vio. Raises InvariantError as ``policy_step`` does.
    """
    tokens = sum(len(part) for part in returns)
    num_sequences = sum(len(batch.rows) for batch in batches)
    balancer = LoadBalancer(model.decoder.body_layers(), balance)
    of = {id(batch): pair for batch, pair in zip(batches, zip(returns, old_values, strict=True), strict=True)}

    def backward(batch: PolicyBatch) -> tuple[Tensor, Tensor]:
        returns_N, old_N = of[id(batch)]
        values_N = _values(model, batch)
        target_N, near_N = returns_N.to(values_N), old_N.to(values_N)
        loss = value_loss(values_N, near_N, target_N, clip=clip).sum() / tokens
        (loss + balancer.loss(batch, num_sequences=num_sequences)).backward()  # type: ignore[no-untyped-call]
        return loss.detach(), loss.detach()[None]

    loss, _, norm = update(optimizer, batches, backward, lr=lr, max_grad_norm=max_grad_norm)
    load = balancer.finish(taken=True)
    return {"value_loss": loss, "value_grad_norm": norm, **({"value_max_vio": load["max_vio"]} if load else {})}


def compute_values(model: ValueModel, batches: Sequence[PolicyBatch]) -> list[Tensor]:
    """The value of the state in which each completion token was chosen, [N] for each batch, without gradients."""
    with torch.no_grad():
        return [_values(model, batch).cpu() for batch in batches]


def _values(model: ValueModel, batch: PolicyBatch) -> Tensor:
    batch = on_device_of(model, batch)
    return model(batch.ids_1T, batch.branches, batch.predict_N)  # type: ignore[no-any-return]
