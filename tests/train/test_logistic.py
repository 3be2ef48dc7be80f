"""The least of the logistic loss, found by hand, by autograd, and against torch's own optimiser."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from aha.train.logistic import fit_logistic, logistic_loss


def test_one_feature_by_hand() -> None:
    """Three of four rows of +-1 speak for the judgement: sigmoid(w) = 3/4 without decay, so w goes to ln 3."""
    rows_NF = torch.tensor([[1.0], [1.0], [1.0], [-1.0]], dtype=torch.float64)
    (w_F,) = fit_logistic(rows_NF, [1e-9])
    assert float(w_F) == pytest.approx(math.log(3), rel=1e-3)
    assert logistic_loss(rows_NF, w_F) == pytest.approx(-(3 * math.log(3 / 4) + math.log(1 / 4)) / 4)
    assert logistic_loss(rows_NF, torch.zeros(1, dtype=torch.float64)) == pytest.approx(math.log(2))


def by_torch(rows_NF: torch.Tensor, decay: float) -> torch.Tensor:
    w_F = torch.zeros(rows_NF.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([w_F], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        total = F.softplus(-(rows_NF @ w_F)).mean() + decay / 2 * w_F.square().sum()
        optimizer.zero_grad()
        total.backward()
        return total

    optimizer.step(loss)
    return w_F.detach()


@pytest.mark.parametrize("features", [7, 60])
def test_torchs_optimiser_finds_the_same(features: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rows_NF = torch.randn(40, features, generator=generator, dtype=torch.float64) + 0.2
    rows_NF[:, 3] = 0.0  # a feature that says nothing
    decays = (1.0, 0.1, 0.01)
    for decay, w_F in zip(decays, fit_logistic(rows_NF, decays), strict=True):
        torch.testing.assert_close(w_F, by_torch(rows_NF, decay), atol=2e-3 * float(w_F.norm()), rtol=0)
        assert abs(w_F[3]) < 1e-12
