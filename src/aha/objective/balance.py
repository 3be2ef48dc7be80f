"""An even load of experts: the bias of the choice, the sequence-wise loss, and how uneven the load is.

Axes: ``E`` experts, ``S`` sequences; ``K`` experts are chosen for a token.
"""

from __future__ import annotations

import torch
from torch import Tensor


def update_bias(bias_E: Tensor, counts_E: Tensor, *, speed: float) -> Tensor:
    """``bias + speed * sign(mean load - load)``: who had too little is chosen more easily in the next step.

    ``counts_E`` are the tokens that each expert got in the whole batch, over all micro-batches and ranks. Source:
    auxiliary-loss-free balancing (2408.15664), algorithm 1; DeepSeek-V3 (2412.19437) section 2.1.2, where ``speed`` is
    0.001 and for the last of the training 0.
    """
    counts_E = counts_E.double()
    return bias_E + speed * torch.sign(counts_E.mean(-1, keepdim=True) - counts_E).to(bias_E)


def max_violation(counts_E: Tensor) -> Tensor:
    """MaxVio: how much more than the mean the busiest expert got, 0 when even (2408.15664, section 4.1)."""
    counts_E = counts_E.double()
    mean = counts_E.mean(-1)
    return (counts_E.amax(-1) - mean) / mean


def sequence_balance_loss(counts_SE: Tensor, affinities_SE: Tensor, tokens_S: Tensor, num_chosen: int) -> Tensor:
    """The balance loss of each sequence, ``[S]``, before its factor alpha; 1 when load or affinities are even.

    ``sum_i f_i P_i`` with ``f_i = E / (K T)`` times the tokens of the sequence that chose expert i and ``P_i`` the mean
    over its T tokens of expert i's share of all affinities. ``affinities_SE`` is the sum of those shares. Only they
    have a gradient. Source: DeepSeek-V3 (2412.19437) equations 17 to 20, alpha 0.0001; 17 counts the choice by
    unbiased affinities, we the choice that was made.
    """
    load_SE = counts_SE.to(affinities_SE) * (counts_SE.shape[1] / num_chosen) / tokens_S[:, None]
    return (load_SE * affinities_SE / tokens_S[:, None]).sum(1)
