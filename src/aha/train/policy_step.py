"""One update of a policy on its completions, under one global denominator.

Shapes: N completion tokens.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aha.errors import InvariantError
from aha.model.decoder import Decoder
from aha.objective.algorithms import Algorithm
from aha.objective.kl import k3
from aha.objective.logprob import Slope, token_logprobs
from aha.objective.nll import nll_loss
from aha.objective.policy import PolicyLoss, importance_weights, policy_loss
from aha.train.balance import DEEPSEEK_V3, Balance, LoadBalancer
from aha.train.batch import PolicyBatch
from aha.train.update import first_eight, on_device_of, update


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
    as the aggregation says) + nll, kl (k3 to the reference, also where it is no part of the loss), mismatch_kl (sampler
    to trainer, k3), logprob_gap and max_logprob_gap (mean and largest difference of a token's log-prob from the
    sampler's), ratio_mean and ess (effective sample size as a share of the tokens) of the ratios to the sampler,
    clip_low and clip_high (tokens without gradient because of it), is_weight_mean and is_truncated (mean importance
    weight, share cut to the cap), entropy, grad_norm (before clipping), lr, tokens, skipped; with experts those of
    ``LoadBalancer.finish``.

    A loss or gradient that is not finite, or a missing reference, raises InvariantError before any weight changes.

    Source: DeepSeekMath (2402.03300) equation 3; mini-batches: DeepSeek-R1 (2501.12948v2) section 2.1.
    """
    totals = dict.fromkeys(_POLICY_SUMS, 0.0)
    gap = 0.0
    balancer = LoadBalancer(decoder.body_layers(), balance)
    computed = sum(len(batch.rows) for batch in batches)  # what is left out has met no expert

    def backward(batch: PolicyBatch) -> tuple[Tensor, Tensor]:
        loss, figures = compute_policy_loss(
            decoder,
            batch,
            algorithm=algorithm,
            num_sequences=num_sequences,
            temperature=temperature,
            importance_cap=importance_cap,
        )
        (loss + balancer.loss(batch, num_sequences=computed)).backward()  # type: ignore[no-untyped-call]
        return loss.detach(), figures

    loss, figures, norm = update(
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
    batch = on_device_of(decoder, batch)
    beta = algorithm.beta if algorithm.kl_in == "loss" else 0.0
    if beta and batch.ref_logp_N is None:
        raise InvariantError(f"beta is {beta} but rows {first_eight(batch.rows)} have no reference log-probs")

    def slope(logp_n: Tensor, part: slice) -> Tensor:
        with torch.enable_grad():
            leaf_n = logp_n.detach().requires_grad_()
            loss = _policy_terms(leaf_n, _tokens(batch, part), algorithm, num_sequences, importance_cap).loss
            return torch.autograd.grad(loss, leaf_n)[0]

    alone = algorithm.ratio != "sequence" and not algorithm.mirror  # a token's loss depends on its own log-prob
    logp_N, entropy_N = completion_logprobs(decoder, batch, temperature, slope if alone else None)
    sampler_N, now_N = batch.sampler_logp_N, logp_N.detach()
    loss, policy_part, policy, weight_N = _policy_terms(logp_N, batch, algorithm, num_sequences, importance_cap)
    with torch.no_grad():
        kl_N = torch.zeros_like(now_N) if batch.ref_logp_N is None else k3(now_N, batch.ref_logp_N)
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
    if beta and batch.ref_logp_N is not None:
        kl_N = algorithm.kl(logp_N, batch.ref_logp_N)
        weighted_N = kl_N * (logp_N - old_N).exp() if algorithm.kl_weighted else kl_N
        loss = loss + beta * (weighted_N * batch.weights_N).sum() / num_sequences
    if algorithm.nll:
        loss = loss + nll_loss(logp_N, batch.nll_N, total_weight=num_sequences)
    return _Terms(loss, policy_part, policy, weight_N)


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
        return [completion_logprobs(decoder, on_device_of(decoder, b), temperature)[0] for b in batches]


def completion_logprobs(
    decoder: Decoder, batch: PolicyBatch, temperature: float, slope: Slope | None = None
) -> tuple[Tensor, Tensor]:
    """Log-prob and entropy of each completion token, [N]; ``slope`` as in ``token_logprobs``."""
    hidden_ND = decoder(batch.ids_1T, branches=batch.branches)[0].index_select(0, batch.predict_N)
    return token_logprobs(hidden_ND, decoder.head_weight, batch.targets_N, temperature=temperature, slope=slope)
