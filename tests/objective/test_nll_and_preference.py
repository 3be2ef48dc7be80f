from __future__ import annotations

import math

import pytest
import torch

from aha.objective.nll import nll_loss
from aha.objective.preference import bradley_terry_loss


def test_nll_by_hand() -> None:
    logp = torch.tensor([0.5, 0.25, 0.125]).log()
    loss = nll_loss(logp, torch.tensor([1.0, 0.0, 2.0]), total_weight=4.0)
    assert loss.item() == pytest.approx((1 * math.log(2) + 2 * math.log(8)) / 4)


def test_bradley_terry_by_hand() -> None:
    chosen = torch.tensor([0.0, math.log(3), 200.0], requires_grad=True)
    rejected = torch.tensor([0.0, 0.0, -200.0])
    loss = bradley_terry_loss(chosen, rejected)
    assert loss[0].item() == pytest.approx(math.log(2))
    assert loss[1].item() == pytest.approx(math.log(4 / 3))  # sigmoid(ln 3) = 3/4
    assert loss[2].item() == 0
    (gradient,) = torch.autograd.grad(loss.sum(), chosen)
    torch.testing.assert_close(gradient, torch.tensor([-0.5, -0.25, 0.0]))


def test_bradley_terry_of_a_badly_wrong_pair_is_finite() -> None:
    assert bradley_terry_loss(torch.tensor([-500.0]), torch.tensor([500.0])).item() == 1000.0
