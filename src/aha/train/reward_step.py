"""One update of a reward model: on pairs, on labelled texts, on the labelled steps of texts.

Shapes: R texts of the pairs, the chosen ones first; B texts or pairs, N steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aha.errors import DataError
from aha.model.heads import ProcessRewardModel, RewardModel
from aha.objective.preference import bradley_terry_loss, pointwise_loss
from aha.train.balance import DEEPSEEK_V3, Balance, LoadBalancer
from aha.train.batch import LabelledBatch, PreferenceBatch, StepBatch
from aha.train.update import on_device_of, update


def preference_step(
    model: RewardModel,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[PreferenceBatch],
    *,
    lr: float,
    max_grad_norm: float,
    balance: Balance = DEEPSEEK_V3,
) -> dict[str, float]:
    """One update of a reward model on pairs (Bradley-Terry), mean over all pairs.

    ``balance`` and its metrics are as in ``policy_step``.

    Metrics: loss, accuracy (share of pairs whose chosen text scores higher), margin (mean difference), grad_norm, lr,
    pairs. Raises InvariantError as ``policy_step`` does.
    """
    if not batches:
        raise DataError("an update without preference pairs")
    num_pairs = sum(len(batch.pairs) for batch in batches)
    balancer = LoadBalancer(model.decoder.body_layers(), balance)

    def backward(batch: PreferenceBatch) -> tuple[Tensor, Tensor]:
        batch = on_device_of(model, batch)
        chosen_B, rejected_B = model(batch.ids_RT, batch.last_R).chunk(2)
        loss = bradley_terry_loss(chosen_B, rejected_B, batch.margin_B).sum() / num_pairs
        (loss + balancer.loss(batch, num_sequences=2 * num_pairs)).backward()  # type: ignore[no-untyped-call]
        margin_B = (chosen_B - rejected_B).detach()
        return loss.detach(), torch.stack(((margin_B > 0).sum().to(margin_B.dtype), margin_B.sum()))

    loss, figures, norm = update(optimizer, batches, backward, lr=lr, max_grad_norm=max_grad_norm)
    right, margin = (sum(column) / num_pairs for column in zip(*figures, strict=True))
    return {
        "loss": loss,
        "accuracy": right,
        "margin": margin,
        "grad_norm": norm,
        "lr": lr,
        "pairs": float(num_pairs),
        **balancer.finish(taken=True),
    }


def label_step(
    model: RewardModel,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[LabelledBatch],
    *,
    lr: float,
    max_grad_norm: float,
    balance: Balance = DEEPSEEK_V3,
) -> dict[str, float]:
    """One update of a reward model on labelled texts (point-wise), mean over all texts.

    ``balance`` and its metrics are as in ``policy_step``.

    Metrics: loss, accuracy (share of texts on the label's side of a score of 0), grad_norm, lr, texts. Raises
    InvariantError as ``policy_step`` does.
    """
    if not batches:
        raise DataError("an update without labelled texts")
    num_texts = sum(len(batch.texts) for batch in batches)
    balancer = LoadBalancer(model.decoder.body_layers(), balance)

    def backward(batch: LabelledBatch) -> tuple[Tensor, Tensor]:
        batch = on_device_of(model, batch)
        score_B = model(batch.ids_BT, batch.last_B)
        loss = pointwise_loss(score_B, batch.label_B).sum() / num_texts
        (loss + balancer.loss(batch, num_sequences=num_texts)).backward()  # type: ignore[no-untyped-call]
        return loss.detach(), ((score_B > 0) == (batch.label_B > 0.5)).sum().to(score_B.dtype)[None]

    loss, figures, norm = update(optimizer, batches, backward, lr=lr, max_grad_norm=max_grad_norm)
    right = sum(row[0] for row in figures) / num_texts
    return {
        "loss": loss,
        "accuracy": right,
        "grad_norm": norm,
        "lr": lr,
        "texts": float(num_texts),
        **balancer.finish(taken=True),
    }


def process_step(
    model: ProcessRewardModel,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[StepBatch],
    *,
    lr: float,
    max_grad_norm: float,
    balance: Balance = DEEPSEEK_V3,
) -> dict[str, float]:
    """One update of a process reward model on labelled steps (binary cross-entropy), mean over all steps.

    ``balance`` and its metrics are as in ``policy_step``.

    Metrics: loss, accuracy (share of steps whose score and label are on the same side of one half), grad_norm, lr,
    steps. Raises InvariantError as ``policy_step`` does.
    """
    if not batches:
        raise DataError("an update without labelled steps")
    num_steps = sum(len(batch.labels_N) for batch in batches)
    num_texts = sum(len(batch.texts) for batch in batches)
    balancer = LoadBalancer(model.decoder.body_layers(), balance)

    def backward(batch: StepBatch) -> tuple[Tensor, Tensor]:
        batch = on_device_of(model, batch)
        logits_N = model(batch.ids_BT, batch.starts_B, batch.rows_N, batch.places_N)
        loss = pointwise_loss(logits_N, batch.labels_N).sum() / num_steps
        (loss + balancer.loss(batch, num_sequences=num_texts)).backward()  # type: ignore[no-untyped-call]
        right_N = (logits_N.detach() >= 0) == (batch.labels_N >= 0.5)
        return loss.detach(), right_N.sum().to(logits_N.dtype)[None]

    loss, figures, norm = update(optimizer, batches, backward, lr=lr, max_grad_norm=max_grad_norm)
    right = sum(row[0] for row in figures) / num_steps
    return {
        "loss": loss,
        "accuracy": right,
        "grad_norm": norm,
        "lr": lr,
        "steps": float(num_steps),
        **balancer.finish(taken=True),
    }
