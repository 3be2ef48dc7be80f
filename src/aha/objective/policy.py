"""The policy part of the loss, per token.

All tensors over N hold the tokens of sequence 0, then of sequence 1, ...; ``row_N`` says which sequence a token is of,
counted from 0 without a gap.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from aha.objective.algorithms import Algorithm


class PolicyLoss(NamedTuple):
    """``loss_N`` with gradient; the ratio, and where the low and the high clip took the gradient away, without."""

    loss_N: Tensor
    ratio_N: Tensor
    clipped_low_N: Tensor
    clipped_high_N: Tensor


def policy_loss(
    logp_N: Tensor, old_logp_N: Tensor, advantages_N: Tensor, row_N: Tensor, *, algorithm: Algorithm
) -> PolicyLoss:
    """Minus the surrogate of a row of the table; ``old_logp_N`` belongs to the policy before the rollout's updates.

    ``ratio="token"``: :func:`clipped_policy_loss` of ``rho = exp(logp - old_logp)`` (DeepSeekMath, 2402.03300, eq. 3).
    ``ratio="sequence"``: the same of ``s = exp(mean of logp - old_logp over the sequence)``, which all its tokens share
    (GSPO, 2507.18071, equation 5). ``clip="weight"``: ``-min(rho, 1 + clip_high) * A * logp`` with a constant weight
    (CISPO, 2506.13585, equation 4). ``ratio="none"``: ``-A * logp`` (REINFORCE). ``mirror`` adds each token's share of
    ``tau / 2 * (sum of logp - old_logp over the sequence) ** 2`` (Kimi k1.5, 2501.12599, equation 3).
    """
    change_N = logp_N - old_logp_N
    never_N = torch.zeros_like(logp_N, dtype=torch.bool)
    if algorithm.ratio == "sequence":
        change_N = sequence_mean(change_N, row_N)
    ratio_N = change_N.exp()
    low_N = high_N = never_N
    if algorithm.ratio == "none":
        loss_N = -advantages_N * logp_N
    elif algorithm.clip == "weight":
        limit = 1 + algorithm.clip_high
        loss_N = -ratio_N.detach().clamp(1 - algorithm.clip_low, limit) * advantages_N * logp_N
        high_N = ratio_N > limit
    else:
        clip = {"low": algorithm.clip_low, "high": algorithm.clip_high, "negative": algorithm.clip_negative}
        loss_N = clipped_loss(ratio_N, advantages_N, **clip)
        low_N, high_N = clipped(ratio_N, advantages_N, **clip)
    if algorithm.mirror:
        lengths_N = torch.bincount(row_N)[row_N]
        total_N = sequence_mean(logp_N - old_logp_N, row_N) * lengths_N
        loss_N = loss_N + algorithm.mirror / 2 * total_N.square() / lengths_N
    return PolicyLoss(loss_N, ratio_N.detach(), low_N, high_N)


def clipped_loss(
    ratio: Tensor, advantages: Tensor, *, low: float, high: float, negative: float = torch.inf
) -> Tensor:
    """``-min(rho * A, clip(rho, 1 - low, 1 + high) * A)`` per token, any shape.

    With low >= 1 the lower bound never binds, since a ratio is positive (R1 has 10). ``negative`` caps the ratio of
    tokens with A < 0, whose product is otherwise without bound (two-sided clip: INTELLECT-2, 2505.07291).

    Source: DeepSeekMath (2402.03300) equation 3; PPO (1707.06347) equation 7; DAPO (2503.14476) equation 8.
    """
    inside = ratio.clamp(1 - low, 1 + high)
    return -torch.minimum(ratio.clamp(max=negative) * advantages, inside * advantages)


def clipped_policy_loss(
    logp: Tensor, old_logp: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> Tensor:
    """:func:`clipped_loss` of ``rho = exp(logp - old_logp)``; ``old_logp`` carries no gradient."""
    return clipped_loss((logp - old_logp).exp(), advantages, low=clip_low, high=clip_high)


def clipped(
    ratio: Tensor, advantages: Tensor, *, low: float, high: float, negative: float = torch.inf
) -> tuple[Tensor, Tensor]:
    """Where :func:`clipped_loss` has no gradient: below the range with A < 0, and above it."""
    below = (advantages < 0) & (ratio < 1 - low)
    above = ((advantages > 0) & (ratio > 1 + high)) | ((advantages < 0) & (ratio > max(negative, 1 - low)))
    return below, above


def sequence_mean(values_N: Tensor, row_N: Tensor) -> Tensor:
    """Each token gets the mean over its sequence, [N]."""
    lengths_B = torch.bincount(row_N)
    sums_B = values_N.new_zeros(len(lengths_B)).index_add(0, row_N, values_N)
    return (sums_B / lengths_B)[row_N]


def importance_weights(old_logp: Tensor, sampler_logp: Tensor, *, cap: float) -> Tensor:
    """``min(exp(old_logp - sampler_logp), cap)`` per token, without gradient: what a token counts that another policy
    sampled than the one being improved, be it an older version or the same weights in other arithmetic.

    Source: truncated importance sampling, Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy
    RL training", cap 2.
    """
    return (old_logp - sampler_logp).detach().exp().clamp(max=cap)
