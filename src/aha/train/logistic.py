"""A linear score learned from judgements, exactly: logistic regression is convex, and its least loss is found.

Axes: ``N`` judgements, ``F`` features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_STEPS = 1_000
TOLERANCE = 1e-4  # of a step, beside what it is added to


def fit_logistic(rows_NF: Tensor, decays: Sequence[float]) -> Iterator[Tensor]:
    """For each of ``decays`` the ``w_F`` with the least ``mean softplus(-rows w) + decay / 2 |w|^2``, all over 0.

    A row is what speaks for the true judgement: the difference of the better text's features and the worse one's, or
    the features of a good text, negative for a bad one. Each starts from the one before. Steps are Newton's with the
    curvature at 0, which is the largest there is, so that every one of them lowers the loss (Boehning and Lindsay 1988,
    Annals of the Institute of Statistical Mathematics 40).
    """
    curvature_F, basis_FF = torch.linalg.eigh(rows_NF.T @ rows_NF / (4 * len(rows_NF)))
    w_F = rows_NF.new_zeros(rows_NF.shape[1])
    for decay in decays:
        for _ in range(MAX_STEPS):
            slope_F = decay * w_F - rows_NF.T @ torch.sigmoid(-(rows_NF @ w_F)) / len(rows_NF)
            step_F = basis_FF @ (basis_FF.T @ slope_F / (curvature_F.clamp(min=0.0) + decay))
            w_F = w_F - step_F
            if step_F.norm() <= TOLERANCE * w_F.norm():
                break
        yield w_F


def logistic_loss(rows_NF: Tensor, w_F: Tensor) -> float:
    """``mean softplus(-rows w)``: ln 2 where nothing is known."""
    return float(F.softplus(-(rows_NF @ w_F)).mean())
