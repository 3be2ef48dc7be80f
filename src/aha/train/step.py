"""One update of the weights: sum over micro-batches, one global denominator, check, clip, step.

Shapes: B rows, T tokens of a row, N tokens that have a loss, D width.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from aha.errors import DataError, InvariantError
from aha.model.decoder import Decoder
from aha.model.heads import ProcessRewardModel, RewardModel, ValueModel
from aha.objective.algorithms import Algorithm
from aha.objective.kl import k3
from aha.objective.logprob import token_logprobs
from aha.objective.nll import nll_loss
from aha.objective.policy import importance_weights, policy_loss
from aha.objective.preference import bradley_terry_loss, label_loss
from aha.objective.value import value_loss
from aha.train.batch import PackedBatch, PolicyBatch, PreferenceBatch, StepBatch
from aha.train.optimizer import clip_grad_norm, gradient_norm, set_learning_rate

Batch = TypeVar("Batch", PolicyBatch, PackedBatch, PreferenceBatch, StepBatch)


def policy_step(
    decoder: Decoder,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[PolicyBatch],
    *,
    algorithm: Algorithm,
    num_sequences: int,
    lr: float,
    max_grad_norm: float,
    temperature: float = 1.0,
    importance_cap: float | None = None,
    skip_above: float = math.inf,
) -> dict[str, float]:
    """One policy update; call it once for each mini-batch of a rollout.

    ``num_sequences`` is the number of completions of this update, also of those left out of ``batches`` because they
    cannot matter; without any batch the step is taken with gradients of 0. ``temperature`` is the sampler's. With
    ``importance_cap`` ratios are to the log-probs that the trainer itself had before the rollout's first update
    (``old_logp_N``, or the present ones), and the sampler's difference from those is a weight of at most that; without
    it ratios are to the sampler's log-probs. A gradient whose norm is over ``skip_above`` is thrown away.

    Metrics, means over the completion tokens unless said otherwise: loss = policy_loss + beta * weighted KL (weighted
    as the aggregation says) + nll, kl (to the reference), mismatch_kl (sampler to trainer, k3), logprob_gap and
    max_logprob_gap (mean and largest difference of a token's log-prob from the sampler's), ratio_mean and ess
    (effective sample size as a share of the tokens) of the ratios to the sampler, clip_low and clip_high (tokens
    without gradient because of it), is_weight_mean and is_truncated (mean importance weight, share cut to the cap),
    entropy, grad_norm (before clipping), lr, tokens, skipped.

    A loss or gradient that is not finite, or a missing reference, raises InvariantError before any weight changes.

    Source: DeepSeekMath (2402.03300) equation 3; mini-batches: DeepSeek-R1 (2501.12948v2) section 2.1.
    """
    totals = dict.fromkeys(_POLICY_SUMS, 0.0)
    gap = 0.0

    def backward(batch: PolicyBatch) -> tuple[Tensor, Tensor]:
        loss, figures = compute_policy_loss(
            decoder,
            batch,
            algorithm=algorithm,
            num_sequences=num_sequences,
            temperature=temperature,
            importance_cap=importance_cap,
        )
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), figures

    loss, figures, norm = _update(
        decoder, optimizer, batches, backward, lr=lr, max_grad_norm=max_grad_norm, skip_above=skip_above
    )
    for row in figures:
        gap = max(gap, row[-1])
        for name, value in zip(_POLICY_SUMS, row[:-1], strict=True):
            totals[name] += value
    tokens = totals.pop("tokens")
    ratio, ratio_square = totals["ratio_mean"], totals.pop("ratio_square")
    means = {name: value / tokens if tokens else 0.0 for name, value in totals.items() if name != "policy_loss"}
    return {
        "loss": loss,
        "policy_loss": totals["policy_loss"],
        **means,
        "ess": ratio**2 / (tokens * ratio_square) if ratio_square else 1.0,
        "max_logprob_gap": gap,
        "grad_norm": norm,
        "lr": lr,
        "tokens": tokens,
        "skipped": float(norm > skip_above),
    }


_POLICY_SUMS = (
    "policy_loss", "kl", "mismatch_kl", "logprob_gap", "entropy", "clip_low", "clip_high", "is_weight_mean",
    "is_truncated", "ratio_mean", "ratio_square", "tokens",
)  # fmt: skip


def compute_policy_loss(
    decoder: Decoder,
    batch: PolicyBatch,
    *,
    algorithm: Algorithm,
    num_sequences: int,
    temperature: float = 1.0,
    importance_cap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The micro-batch's part of the loss, a scalar, and its sums for the metrics with the largest gap at the end."""
    batch = _on_device_of(decoder, batch)
    beta = algorithm.beta if algorithm.kl_in == "loss" else 0.0
    if beta and batch.ref_logp_N is None:
        raise InvariantError(f"beta is {beta} but rows {_some(batch.rows)} have no reference log-probs")
    logp_N, entropy_N = _completion_logprobs(decoder, batch, temperature)
    sampler_N, now_N = batch.sampler_logp_N, logp_N.detach()
    old_N, weight_N = sampler_N, torch.ones_like(now_N)
    if importance_cap is not None:
        old_N = now_N if batch.old_logp_N is None else batch.old_logp_N
        weight_N = importance_weights(old_N, sampler_N, cap=importance_cap)
    policy = policy_loss(logp_N, old_N, batch.advantages_N, batch.row_N, algorithm=algorithm)
    loss = policy_part = (policy.loss_N * weight_N * batch.weights_N).sum() / num_sequences
    kl_N = torch.zeros_like(now_N)
    if batch.ref_logp_N is not None:
        kl_N = algorithm.kl(logp_N, batch.ref_logp_N)
        if beta:
            weighted_N = kl_N * (logp_N - old_N).exp() if algorithm.kl_weighted else kl_N
            loss = loss + beta * (weighted_N * batch.weights_N).sum() / num_sequences
    if algorithm.nll:
        loss = loss + nll_loss(logp_N, batch.nll_N, total_weight=num_sequences)
    with torch.no_grad():
        ratio_N = (now_N - sampler_N).exp()
        gap_N = (now_N - sampler_N).abs()
        capped_N = weight_N >= importance_cap if importance_cap is not None else torch.zeros_like(weight_N)
        columns = (
            kl_N, k3(sampler_N, now_N), gap_N, entropy_N, policy.clipped_low_N, policy.clipped_high_N, weight_N,
            capped_N, ratio_N, ratio_N.square(),
        )  # fmt: skip
        sums = torch.stack([column.to(now_N.dtype) for column in columns]).detach().sum(1)
        figures = torch.cat((policy_part.detach()[None], sums, sums.new_tensor([now_N.numel()]), gap_N.max()[None]))
    return loss, figures


def compute_logprobs(
    decoder: Decoder, batches: Sequence[PolicyBatch], *, temperature: float = 1.0
) -> list[Tensor]:
    """The log-probs of the completion tokens, [N] for each batch, without gradients: those of a reference."""
    with torch.no_grad():
        return [_completion_logprobs(decoder, _on_device_of(decoder, b), temperature)[0] for b in batches]


def nll_step(
    decoder: Decoder,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[PackedBatch],
    *,
    lr: float,
    max_grad_norm: float,
) -> dict[str, float]:
    """One update on documents; the denominator is the loss weight of all batches. Metrics: loss, grad_norm, lr, tokens.

    ``tokens`` counts those with a weight. Raises InvariantError as :func:`policy_step` does.
    """
    if not batches:
        raise DataError("an update without documents: nothing was packed")
    total_weight = float(sum(batch.weights_BT.sum() for batch in batches))

    def backward(batch: PackedBatch) -> tuple[Tensor, Tensor]:
        loss, tokens = compute_nll_loss(decoder, batch, total_weight=total_weight)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), tokens[None]

    loss, figures, norm = _update(decoder, optimizer, batches, backward, lr=lr, max_grad_norm=max_grad_norm)
    return {"loss": loss, "grad_norm": norm, "lr": lr, "tokens": sum(row[0] for row in figures)}


def compute_nll_loss(decoder: Decoder, batch: PackedBatch, *, total_weight: float) -> tuple[Tensor, Tensor]:
    """The micro-batch's part of the loss and its number of tokens, both scalars."""
    batch = _on_device_of(decoder, batch)
    hidden_ND = decoder(batch.ids_BT, batch.positions_BT, batch.segments_BT).flatten(0, 1)
    targets_N, weights_N = batch.targets_BT.flatten(), batch.weights_BT.flatten()
    learned_N = weights_N.nonzero()[:, 0]
    if len(learned_N) < len(weights_N):
        hidden_ND = hidden_ND.index_select(0, learned_N)
        targets_N, weights_N = targets_N[learned_N], weights_N[learned_N]
    logp_N, _ = token_logprobs(hidden_ND, decoder.head_weight, targets_N)
    return nll_loss(logp_N, weights_N, total_weight=total_weight), weights_N.new_tensor(len(weights_N))


def preference_step(
    model: RewardModel,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[PreferenceBatch],
    *,
    lr: float,
    max_grad_norm: float,
) -> dict[str, float]:
    """One update of a reward model on pairs (Bradley-Terry), mean over all pairs.

    Metrics: loss, accuracy (share of pairs whose chosen text scores higher), margin (mean difference), grad_norm, lr,
    pairs. Raises InvariantError as :func:`policy_step` does.
    """
    if not batches:
        raise DataError("an update without preference pairs")
    num_pairs = sum(len(batch.pairs) for batch in batches)

    def backward(batch: PreferenceBatch) -> tuple[Tensor, Tensor]:
        batch = _on_device_of(model, batch)
        chosen_B, rejected_B = model(batch.ids_RT, batch.last_R).chunk(2)
        loss = bradley_terry_loss(chosen_B, rejected_B).sum() / num_pairs
        loss.backward()  # type: ignore[no-untyped-call]
        margin_B = (chosen_B - rejected_B).detach()
        return loss.detach(), torch.stack(((margin_B > 0).sum().to(margin_B.dtype), margin_B.sum()))

    loss, figures, norm = _update(model, optimizer, batches, backward, lr=lr, max_grad_norm=max_grad_norm)
    right, margin = (sum(column) / num_pairs for column in zip(*figures, strict=True))
    return {"loss": loss, "accuracy": right, "margin": margin, "grad_norm": norm, "lr": lr, "pairs": float(num_pairs)}


def process_step(
    model: ProcessRewardModel,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[StepBatch],
    *,
    lr: float,
    max_grad_norm: float,
) -> dict[str, float]:
    """One update of a process reward model on labelled steps (binary cross-entropy), mean over all steps.

    Metrics: loss, accuracy (share of steps whose score and label are on the same side of one half), grad_norm, lr,
    steps. Raises InvariantError as :func:`policy_step` does.
    """
    if not batches:
        raise DataError("an update without labelled steps")
    num_steps = sum(len(batch.labels_N) for batch in batches)

    def backward(batch: StepBatch) -> tuple[Tensor, Tensor]:
        batch = _on_device_of(model, batch)
        logits_N = model(batch.ids_BT, batch.rows_N, batch.places_N)
        loss = label_loss(logits_N, batch.labels_N).sum() / num_steps
        loss.backward()  # type: ignore[no-untyped-call]
        right_N = (logits_N.detach() >= 0) == (batch.labels_N >= 0.5)
        return loss.detach(), right_N.sum().to(logits_N.dtype)[None]

    loss, figures, norm = _update(model, optimizer, batches, backward, lr=lr, max_grad_norm=max_grad_norm)
    right = sum(row[0] for row in figures) / num_steps
    return {"loss": loss, "accuracy": right, "grad_norm": norm, "lr": lr, "steps": float(num_steps)}


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
) -> dict[str, float]:
    """One update of a critic; ``returns`` and ``old_values`` have each batch's [N]. Mean over all tokens.

    Metrics: value_loss, value_grad_norm. Raises InvariantError as :func:`policy_step` does.
    """
    tokens = sum(len(part) for part in returns)
    of = {id(batch): pair for batch, pair in zip(batches, zip(returns, old_values, strict=True), strict=True)}

    def backward(batch: PolicyBatch) -> tuple[Tensor, Tensor]:
        returns_N, old_N = of[id(batch)]
        values_N = _values(model, batch)
        target_N, near_N = returns_N.to(values_N), old_N.to(values_N)
        loss = value_loss(values_N, near_N, target_N, clip=clip).sum() / tokens
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), loss.detach()[None]

    loss, _, norm = _update(model, optimizer, batches, backward, lr=lr, max_grad_norm=max_grad_norm)
    return {"value_loss": loss, "value_grad_norm": norm}


def compute_values(model: ValueModel, batches: Sequence[PolicyBatch]) -> list[Tensor]:
    """The value of the state in which each completion token was chosen, [N] for each batch, without gradients."""
    with torch.no_grad():
        return [_values(model, batch).cpu() for batch in batches]


def _values(model: ValueModel, batch: PolicyBatch) -> Tensor:
    batch = _on_device_of(model, batch)
    return model(batch.ids_1T, batch.branches, batch.predict_N)  # type: ignore[no-any-return]


def _completion_logprobs(decoder: Decoder, batch: PolicyBatch, temperature: float) -> tuple[Tensor, Tensor]:
    hidden_ND = decoder(batch.ids_1T, branches=batch.branches)[0].index_select(0, batch.predict_N)
    return token_logprobs(hidden_ND, decoder.head_weight, batch.targets_N, temperature=temperature)


def _update(
    module: nn.Module,
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
    its part of the loss and a vector of figures. Numbers leave the device once, after the last batch.
    """
    optimizer.zero_grad(set_to_none=True)
    parts = [backward(batch) for batch in batches]
    if not parts:  # as if rows without a gradient had been computed: moments and weight decay go on
        for parameter in module.parameters():
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


def _rows(batch: PolicyBatch | PackedBatch | PreferenceBatch | StepBatch) -> str:
    if isinstance(batch, PolicyBatch):
        return f" (rows {_some(batch.rows)})"
    if isinstance(batch, PreferenceBatch):
        return f" (pairs {_some(batch.pairs)})"
    if isinstance(batch, StepBatch):
        return f" (texts {_some(batch.texts)})"
    return ""


def _some(indices: Sequence[int]) -> str:
    return ", ".join(map(str, indices[:8])) + (", ..." if len(indices) > 8 else "")


def _on_device_of(module: nn.Module, batch: Batch) -> Batch:
    device = next(module.parameters()).device
    values = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    moved: dict[str, Any] = {name: v.to(device) for name, v in values.items() if isinstance(v, Tensor)}
    return dataclasses.replace(batch, **moved)
