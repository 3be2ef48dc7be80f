from __future__ import annotations

import math

import pytest
import torch

from aha.objective.nll import nll_loss
from aha.objective.preference import bradley_terry_loss, pointwise_loss


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


def test_a_margin_is_taken_from_the_difference() -> None:
    loss = bradley_terry_loss(torch.tensor([2.0, 2.0]), torch.tensor([0.0, 0.0]), torch.tensor([2.0, 2 - math.log(3)]))
    assert loss.tolist() == pytest.approx([math.log(2), math.log(4 / 3)])


def test_pointwise_by_hand() -> None:
    loss = pointwise_loss(torch.tensor([0.0, math.log(3), math.log(3), 0.0]), torch.tensor([1.0, 1.0, 0.0, 0.25]))
    assert loss.tolist() == pytest.approx([math.log(2), math.log(4 / 3), math.log(4), math.log(2)])


@pytest.mark.parametrize("loss", ["pairs", "labels"])
def test_preference_gradients_are_those_of_finite_differences(loss: str) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    if loss == "pairs":
        assert torch.autograd.gradcheck(lambda a, b: bradley_terry_loss(a, b, 0.3), (a, b))
    else:
        assert torch.autograd.gradcheck(lambda a: pointwise_loss(a, torch.tensor([0, 1, 1, 0, 1])), (a,))
