"""Negative log-likelihood, the loss of pretraining, supervised fine-tuning and distillation."""

from __future__ import annotations

from torch import Tensor


def nll_loss(logp_N: Tensor, weights_N: Tensor, *, total_weight: float) -> Tensor:
    """``-sum(weights * logp) / total_weight``, a scalar in nats per unit of weight.

    ``total_weight`` is that of the whole step, not of these tokens: the sum over any split of the step is the same.
    """
    return -(logp_N * weights_N).sum() / total_weight
