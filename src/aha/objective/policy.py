"""The policy part of the loss, per token."""

from __future__ import annotations

import torch
from torch import Tensor


def clipped_policy_loss(
    logp: Tensor, old_logp: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> Tensor:
    """``-min(rho * A, clip(rho, 1 - clip_low, 1 + clip_high) * A)`` with ``rho = exp(logp - old_logp)``, per token.

    All three tensors have the same shape, so has the result. ``old_logp`` belongs to the policy that sampled the token
    and carries no gradient. With clip_low >= 1 the lower bound never binds, since a ratio is positive (R1 has 10).

    Source: DeepSeekMath (2402.03300) equation 3; PPO (1707.06347) equation 7.
    """
    ratio = (logp - old_logp).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def clipped_tokens(logp: Tensor, old_logp: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float) -> Tensor:
    """True where the clip takes the gradient of :func:`clipped_policy_loss` away."""
    ratio = (logp - old_logp).exp()
    return ((advantages > 0) & (ratio > 1 + clip_high)) | ((advantages < 0) & (ratio < 1 - clip_low))
