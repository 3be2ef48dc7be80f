from __future__ import annotations

import pytest
import torch

from aha.objective.value import explained_variance, value_loss


@pytest.mark.parametrize(
    ("value", "old", "target", "loss"),
    [
        (1.0, 1.0, 3.0, 2.0),  # (1 - 3)^2 / 2
        (2.0, 1.0, 3.0, 1.62),  # clipped to 1.2: (1.2 - 3)^2 / 2 is worse than (2 - 3)^2 / 2
        (0.0, 1.0, 3.0, 4.5),  # moved the wrong way: unclipped is worse
        (1.1, 1.0, 3.0, 1.805),  # inside the range
    ],
)
def test_by_hand(value: float, old: float, target: float, loss: float) -> None:
    result = value_loss(torch.tensor(value), torch.tensor(old), torch.tensor(target), clip=0.2)
    assert result.item() == pytest.approx(loss)


def test_without_a_clip_it_is_half_the_square() -> None:
    assert value_loss(torch.tensor(2.0), torch.tensor(0.0), torch.tensor(3.0), clip=None).item() == 0.5


@pytest.mark.parametrize("clip", [None, 0.2])
def test_gradient(clip: float | None) -> None:
    values = torch.tensor([0.3, 1.1, -2.0], dtype=torch.float64, requires_grad=True)
    old, target = torch.tensor([0.2, 0.2, 0.2]).double(), torch.tensor([1.0, 1.0, 1.0]).double()
    assert torch.autograd.gradcheck(lambda v: value_loss(v, old, target, clip=clip), (values,))


def test_explained_variance() -> None:
    returns = torch.tensor([0.0, 1.0, 2.0])
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance(torch.ones(3), returns) == 0.0
    assert explained_variance(-returns, returns) < 0
    assert explained_variance(returns, torch.ones(3)) == 0.0
