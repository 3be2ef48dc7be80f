"""One update of the weights: sum over micro-batches, one global denominator, check, clip, step.

Shapes: B rows, T tokens of a row, N tokens that have a loss, D width.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from aha.errors import DataError, InvariantError
from aha.model.decoder import Decoder
from aha.model.heads import ProcessRewardModel, RewardModel, ValueModel
from aha.objective.algorithms import Algorithm
from aha.objective.direct import Preference, compute_pair_losses, compute_score
from aha.objective.kl import k3
from aha.objective.logprob import Slope, token_logprobs
from aha.objective.mtp import targets_ahead
from aha.objective.nll import nll_loss
from aha.objective.policy import PolicyLoss, importance_weights, policy_loss
from aha.objective.preference import bradley_terry_loss, pointwise_loss
from aha.objective.value import value_loss
from aha.train.balance import DEEPSEEK_V3, Balance, LoadBalancer
from aha.train.batch import LabelledBatch, PackedBatch, PolicyBatch, PreferenceBatch, StepBatch
from aha.train.halves import widen_gradients
from aha.train.optimizer import clip_grad_norm, gradient_norm, set_learning_rate

Batch = TypeVar("Batch", PolicyBatch, PackedBatch, PreferenceBatch, LabelledBatch, StepBatch)


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
    balance: Balance = DEEPSEEK_V3,
) -> dict[str, float]:
    """One policy update; call it once for each mini-batch of a rollout.

    ``num_sequences`` is the number of completions of this update, also of those left out of ``batches`` because they
    cannot matter; without any batch the step is taken with gradients of 0. ``temperature`` is the sampler's. With
    ``importance_cap`` ratios are to the log-probs that the trainer itself had before the rollout's first update
    (``old_logp_N``, or the present ones), and the sampler's difference from those is a weight of at most that; without
    it ratios are to the sampler's log-probs. A gradient whose norm is over ``skip_above`` is thrown away. ``balance``
    says how the load of a model's experts is kept even; what that adds is not in ``loss``.

    Metrics, means over the completion tokens unless said otherwise: loss = policy_loss + beta * weighted KL (weighted
    as the aggregation says) + nll, kl (to the reference), mismatch_kl (sampler to trainer, k3), logprob_gap and
    max_logprob_gap (mean and largest difference of a token's log-prob from the sampler's), ratio_mean and ess
    (effective sample size as a share of the tokens) of the ratios to the sampler, clip_low and clip_high (tokens
    without gradient because of it), is_weight_mean and is_truncated (mean importance weight, share cut to the cap),
    entropy, grad_norm (before clipping), lr, tokens, skipped; with experts those of ``LoadBalancer.finish``.

    A loss or gradient that is not finite, or a missing reference, raises InvariantError before any weight changes.

    Source: DeepSeekMath (2402.03300) equation 3; mini-batches: DeepSeek-R1 (2501.12948v2) section 2.1.
    """
    totals = dict.fromkeys(_POLICY_SUMS, 0.0)
    gap = 0.0
    balancer = LoadBalancer(decoder.body_layers(), balance)

    def backward(batch: PolicyBatch) -> tuple[Tensor, Tensor]:
        loss, figures = compute_policy_loss(
            decoder,
            batch,
            algorithm=algorithm,
            num_sequences=num_sequences,
            temperature=temperature,
            importance_cap=importance_cap,
        )
        (loss + balancer.loss(batch, num_sequences=num_sequences)).backward()  # type: ignore[no-untyped-call]
        return loss.detach(), figures

    loss, figures, norm = _update(
        optimizer, batches, backward, lr=lr, max_grad_norm=max_grad_norm, skip_above=skip_above
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
        **balancer.finish(taken=norm <= skip_above),
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

    def slope(logp_n: Tensor, part: slice) -> Tensor:
        with torch.enable_grad():
            leaf_n = logp_n.detach().requires_grad_()
            loss = _policy_terms(leaf_n, _tokens(batch, part), algorithm, num_sequences, importance_cap).loss
            return torch.autograd.grad(loss, leaf_n)[0]

    alone = algorithm.ratio != "sequence" and not algorithm.mirror  # a token's loss depends on its own log-prob
    logp_N, entropy_N = _completion_logprobs(decoder, batch, temperature, slope if alone else None)
    sampler_N, now_N = batch.sampler_logp_N, logp_N.detach()
    loss, policy_part, policy, kl_N, weight_N = _policy_terms(
        logp_N, batch, algorithm, num_sequences, importance_cap
    )
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


class _Terms(NamedTuple):
    loss: Tensor
    policy_part: Tensor
    policy: PolicyLoss
    kl_N: Tensor
    weight_N: Tensor


def _policy_terms(
    logp_N: Tensor,
    batch: PolicyBatch,
    algorithm: Algorithm,
    num_sequences: int,
    importance_cap: float | None,
) -> _Terms:
    """The loss of tokens with these log-probs, and what it is made of."""
    beta = algorithm.beta if algorithm.kl_in == "loss" else 0.0
    now_N = logp_N.detach()
    old_N, weight_N = batch.sampler_logp_N, torch.ones_like(now_N)
    if importance_cap is not None:
        old_N = now_N if batch.old_logp_N is None else batch.old_logp_N
        weight_N = importance_weights(old_N, batch.sampler_logp_N, cap=importance_cap)
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
    return _Terms(loss, policy_part, policy, kl_N, weight_N)


def _tokens(batch: PolicyBatch, part: slice) -> PolicyBatch:
    """What the loss reads of some of the tokens."""
    names = ("advantages_N", "row_N", "sampler_logp_N", "weights_N", "nll_N", "old_logp_N", "ref_logp_N")
    cut: dict[str, Any] = {name: None if (x := getattr(batch, name)) is None else x[part] for name in names}
    return dataclasses.replace(batch, **cut)


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
    balance: Balance = DEEPSEEK_V3,
    mtp_weight: float = 0.0,
) -> dict[str, float]:
    """One update on documents; the denominator is the loss weight of all batches. Metrics: loss, grad_norm, lr, tokens.

    ``tokens`` counts those with a weight. With ``mtp_weight`` the modules of multi-token prediction learn too: it times
    ``mtp_loss``, the mean of their losses, is added to what is descended (``loss`` stays the body's). ``balance``, its
    metrics and InvariantError are as in :func:`policy_step`.
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

    Metrics: mtp_loss. Raises InvariantError as :func:`policy_step` does.
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
        loss, figures = compute_nll_loss(decoder, batch, total_weight=total_weight, mtp_weight=mtp_weight)
        (loss + balancer.loss(batch, num_sequences=num_documents)).backward()  # type: ignore[no-untyped-call]
        return loss.detach(), figures

    _, figures, norm = _update(optimizer, batches, backward, lr=lr, max_grad_norm=max_grad_norm)
    tokens, loss, mtp_loss = (sum(column) for column in zip(*figures, strict=True))
    ahead = {"mtp_loss": mtp_loss} if mtp_weight else {}
    return {"loss": loss, **ahead, "grad_norm": norm, "lr": lr, "tokens": tokens, **balancer.finish(taken=True)}


def compute_nll_loss(
    decoder: Decoder, batch: PackedBatch, *, total_weight: float, mtp_weight: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The micro-batch's part of what is descended, a scalar, and [3]: its tokens, the body's loss, that of multi-token
    prediction (0 without ``mtp_weight``)."""
    batch = _on_device_of(decoder, batch)
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

    ``balance`` and its metrics are as in :func:`policy_step`.

    Metrics: loss, accuracy (share of pairs whose chosen text scores higher), margin (mean difference), grad_norm, lr,
    pairs. Raises InvariantError as :func:`policy_step` does.
    """
    if not batches:
        raise DataError("an update without preference pairs")
    num_pairs = sum(len(batch.pairs) for batch in batches)
    balancer = LoadBalancer(model.decoder.body_layers(), balance)

    def backward(batch: PreferenceBatch) -> tuple[Tensor, Tensor]:
        batch = _on_device_of(model, batch)
        chosen_B, rejected_B = model(batch.ids_RT, batch.last_R).chunk(2)
        loss = bradley_terry_loss(chosen_B, rejected_B, batch.margin_B).sum() / num_pairs
        (loss + balancer.loss(batch, num_sequences=2 * num_pairs)).backward()  # type: ignore[no-untyped-call]
        margin_B = (chosen_B - rejected_B).detach()
        return loss.detach(), torch.stack(((margin_B > 0).sum().to(margin_B.dtype), margin_B.sum()))

    loss, figures, norm = _update(optimizer, batches, backward, lr=lr, max_grad_norm=max_grad_norm)
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

    ``balance`` and its metrics are as in :func:`policy_step`.

    Metrics: loss, accuracy (share of texts on the label's side of a score of 0), grad_norm, lr, texts. Raises
    InvariantError as :func:`policy_step` does.
    """
    if not batches:
        raise DataError("an update without labelled texts")
    num_texts = sum(len(batch.texts) for batch in batches)
    balancer = LoadBalancer(model.decoder.body_layers(), balance)

    def backward(batch: LabelledBatch) -> tuple[Tensor, Tensor]:
        batch = _on_device_of(model, batch)
        score_B = model(batch.ids_BT, batch.last_B)
        loss = pointwise_loss(score_B, batch.label_B).sum() / num_texts
        (loss + balancer.loss(batch, num_sequences=num_texts)).backward()  # type: ignore[no-untyped-call]
        return loss.detach(), ((score_B > 0) == (batch.label_B > 0.5)).sum().to(score_B.dtype)[None]

    loss, figures, norm = _update(optimizer, batches, backward, lr=lr, max_grad_norm=max_grad_norm)
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

    ``balance`` and its metrics are as in :func:`policy_step`.

    Metrics: loss, accuracy (share of steps whose score and label are on the same side of one half), grad_norm, lr,
    steps. Raises InvariantError as :func:`policy_step` does.
    """
    if not batches:
        raise DataError("an update without labelled steps")
    num_steps = sum(len(batch.labels_N) for batch in batches)
    num_texts = sum(len(batch.texts) for batch in batches)
    balancer = LoadBalancer(model.decoder.body_layers(), balance)

    def backward(batch: StepBatch) -> tuple[Tensor, Tensor]:
        batch = _on_device_of(model, batch)
        logits_N = model(batch.ids_BT, batch.starts_B, batch.rows_N, batch.places_N)
        loss = pointwise_loss(logits_N, batch.labels_N).sum() / num_steps
        (loss + balancer.loss(batch, num_sequences=num_texts)).backward()  # type: ignore[no-untyped-call]
        right_N = (logits_N.detach() >= 0) == (batch.labels_N >= 0.5)
        return loss.detach(), right_N.sum().to(logits_N.dtype)[None]

    loss, figures, norm = _update(optimizer, batches, backward, lr=lr, max_grad_norm=max_grad_norm)
    right = sum(row[0] for row in figures) / num_steps
    return {
        "loss": loss,
        "accuracy": right,
        "grad_norm": norm,
        "lr": lr,
        "steps": float(num_steps),
        **balancer.finish(taken=True),
    }


def direct_step(
    decoder: Decoder,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[PolicyBatch],
    *,
    row: Preference,
    reference_R: Tensor | None = None,
    others: Sequence[PolicyBatch] = (),
    others_reference_R: Tensor | None = None,
    lr: float,
    max_grad_norm: float,
    balance: Balance = DEEPSEEK_V3,
) -> dict[str, float]:
    """One update of preference optimisation on pairs, mean over all pairs.

    ``batches`` are those of ``collate_completion_pairs``; ``reference_R`` has the reference's log-prob of each of the
    2 B completions, as ``compute_sequence_logprobs`` gives it. ``others`` are completions of other prompts, with their
    reference: where the row needs a baseline, it is that of the whole update, however it is split.

    Metrics: loss; accuracy (share of pairs whose chosen completion has the higher reward), margin (mean difference),
    rewards/chosen and rewards/rejected (beta times the score), logps/chosen and logps/rejected (sums over tokens);
    baseline where the row needs one (mean score of ``others``, at least 0); grad_norm, lr, pairs, tokens. ``balance``
    and its metrics are as in :func:`policy_step`, and so is InvariantError, raised also where a row lacks its reference
    or baseline.
    """
    if not batches:
        raise DataError("an update without preference pairs")
    if row.reference and reference_R is None or row.needs_baseline and (others_reference_R is None or not others):
        raise InvariantError(f"preference {row.name!r} needs a reference's log-probs, and kto those of other prompts")
    num_pairs = sum(len(batch.rows) for batch in batches) // 2
    balancer = LoadBalancer(decoder.body_layers(), balance)
    device = decoder.head_weight.device
    baseline = torch.zeros((), device=device)
    if row.needs_baseline and others_reference_R is not None:
        others_R = compute_sequence_logprobs(decoder, others)
        length_of = {index: n for batch in others for index, n in zip(batch.rows, batch.lengths, strict=True)}
        lengths_R = torch.tensor([length_of[index] for index in sorted(length_of)])
        score_R = compute_score(others_R, others_reference_R, lengths_R, row=row)
        baseline = score_R.mean().clamp(min=0.0).to(device)

    def backward(batch: PolicyBatch) -> tuple[Tensor, Tensor]:
        batch = _on_device_of(decoder, batch)
        logp_R = _sequence_sums(batch, _completion_logprobs(decoder, batch, 1.0)[0])
        lengths_R = torch.tensor(batch.lengths, device=logp_R.device)
        of_rows = None if reference_R is None else reference_R[list(batch.rows)].to(logp_R)
        score_R = compute_score(logp_R, of_rows, lengths_R, row=row)
        loss = compute_pair_losses(score_R[::2], score_R[1::2], baseline, row=row).sum() / num_pairs
        (loss + balancer.loss(batch, num_sequences=2 * num_pairs)).backward()  # type: ignore[no-untyped-call]
        reward_R, logp_R = row.beta * score_R.detach(), logp_R.detach()
        right = (reward_R[::2] > reward_R[1::2]).sum().to(reward_R.dtype)
        sums = [right, reward_R[::2].sum(), reward_R[1::2].sum(), logp_R[::2].sum(), logp_R[1::2].sum()]
        return loss.detach(), torch.stack(sums)

    loss, figures, norm = _update(optimizer, batches, backward, lr=lr, max_grad_norm=max_grad_norm)
    names = ("accuracy", "rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected")
    means = {name: sum(column) / num_pairs for name, column in zip(names, zip(*figures, strict=True), strict=True)}
    return {
        "loss": loss,
        **means,
        "margin": means["rewards/chosen"] - means["rewards/rejected"],
        **({"baseline": float(baseline)} if row.needs_baseline else {}),
        "grad_norm": norm,
        "lr": lr,
        "pairs": float(num_pairs),
        "tokens": float(sum(sum(batch.lengths) for batch in batches)),
        **balancer.finish(taken=True),
    }


def compute_sequence_logprobs(decoder: Decoder, batches: Sequence[PolicyBatch]) -> Tensor:
    """The log-prob of each of the caller's rows, a sum over its tokens, [R] on the CPU, without gradients."""
    rows = [row for batch in batches for row in batch.rows]
    found = [
        _sequence_sums(batch, logp_N).cpu()
        for batch, logp_N in zip(batches, compute_logprobs(decoder, batches), strict=True)
    ]
    sums_R = torch.cat(found)
    return sums_R[torch.tensor(rows).argsort()]


def _sequence_sums(batch: PolicyBatch, values_N: Tensor) -> Tensor:
    return torch.stack([part.sum() for part in torch.split(values_N, list(batch.lengths))])


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
    is as in :func:`policy_step`.

    Metrics: value_loss, value_grad_norm, with experts value_max_vio. Raises InvariantError as :func:`policy_step` does.
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

    loss, _, norm = _update(optimizer, batches, backward, lr=lr, max_grad_norm=max_grad_norm)
    load = balancer.finish(taken=True)
    return {"value_loss": loss, "value_grad_norm": norm, **({"value_max_vio": load["max_vio"]} if load else {})}


def compute_values(model: ValueModel, batches: Sequence[PolicyBatch]) -> list[Tensor]:
    """The value of the state in which each completion token was chosen, [N] for each batch, without gradients."""
    with torch.no_grad():
        return [_values(model, batch).cpu() for batch in batches]


def _values(model: ValueModel, batch: PolicyBatch) -> Tensor:
    batch = _on_device_of(model, batch)
    return model(batch.ids_1T, batch.branches, batch.predict_N)  # type: ignore[no-any-return]


def _completion_logprobs(
    decoder: Decoder, batch: PolicyBatch, temperature: float, slope: Slope | None = None
) -> tuple[Tensor, Tensor]:
    hidden_ND = decoder(batch.ids_1T, branches=batch.branches)[0].index_select(0, batch.predict_N)
    return token_logprobs(hidden_ND, decoder.head_weight, batch.targets_N, temperature=temperature, slope=slope)


def _update(
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
        return f" (rows {_some(batch.rows)})"
    if isinstance(batch, PreferenceBatch):
        return f" (pairs {_some(batch.pairs)})"
    if isinstance(batch, LabelledBatch | StepBatch):
        return f" (texts {_some(batch.texts)})"
    return ""


def _some(indices: Sequence[int]) -> str:
    return ", ".join(map(str, indices[:8])) + (", ..." if len(indices) > 8 else "")


def _on_device_of(module: nn.Module, batch: Batch) -> Batch:
    device = next(module.parameters()).device
    values = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    moved: dict[str, Any] = {name: v.to(device) for name, v in values.items() if isinstance(v, Tensor)}
    return dataclasses.replace(batch, **moved)
