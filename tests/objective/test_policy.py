from __future__ import annotations

import math

import pytest
import torch

from aha.objective.kl import k3
from aha.objective.policy import clipped_policy_loss, clipped_tokens


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 2.0, -2.0, False),
        (1.1, 2.0, -2.2, False),
        (1.5, 2.0, -2.56, True),  # good and already likelier: capped at 1.28
        (0.5, 2.0, -1.0, False),  # good and become less likely: not clipped
        (0.5, -2.0, 1.6, True),  # bad and already less likely: capped at 0.8
        (1.5, -2.0, 3.0, False),  # bad and become likelier: not clipped
        (1.5, 0.0, 0.0, False),
    ],
)
def test_every_branch_by_hand(ratio: float, advantage: float, loss: float, clipped: bool) -> None:
    old_logp = torch.tensor([-0.7], dtype=torch.float64)
    logp = (old_logp + math.log(ratio)).requires_grad_()
    adv = torch.tensor([advantage], dtype=torch.float64)
    result = clipped_policy_loss(logp, old_logp, adv, clip_low=0.2, clip_high=0.28)
    assert result.item() == pytest.approx(loss)
    (gradient,) = torch.autograd.grad(result.sum(), logp)
    # d/dlogp of -ratio * A is -ratio * A; nothing where the clip binds.
    assert gradient.item() == pytest.approx(0.0 if clipped else -ratio * advantage)
    assert clipped_tokens(logp, old_logp, adv, clip_low=0.2, clip_high=0.28).item() is clipped


def test_lower_bound_of_ten_never_binds_and_upper_is_eleven() -> None:
    old_logp = torch.zeros(3, dtype=torch.float64)
    logp = torch.tensor([1e-9, 10.9, 12.0], dtype=torch.float64).log()
    adv = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    result = clipped_policy_loss(logp, old_logp, adv, clip_low=10.0, clip_high=10.0)
    torch.testing.assert_close(result, torch.tensor([1e-9, -10.9, -11.0], dtype=torch.float64))


def test_gradient_coefficient_of_grpo_on_policy() -> None:
    """DeepSeekMath A.1.6: with pi_old = pi, grad log pi is multiplied by A + beta * (u - 1)."""
    beta = 0.04
    logp = torch.tensor([-0.3, -1.2], dtype=torch.float64, requires_grad=True)
    ref_logp = torch.tensor([-0.9, -0.2], dtype=torch.float64)
    adv = torch.tensor([1.5, -0.5], dtype=torch.float64)
    loss = clipped_policy_loss(logp, logp.detach(), adv, clip_low=0.2, clip_high=0.2) + beta * k3(logp, ref_logp)
    (gradient,) = torch.autograd.grad(loss.sum(), logp)
    u = (ref_logp - logp.detach()).exp()
    torch.testing.assert_close(-gradient, adv + beta * (u - 1))
