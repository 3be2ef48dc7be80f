from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from aha.train.optimizer import build_adamw, clip_grad_norm, gradient_norm, set_learning_rate


def module() -> nn.Linear:
    linear = nn.Linear(2, 1)
    with torch.no_grad():
        linear.weight.fill_(1.0)
        linear.bias.fill_(1.0)
    return linear


def test_only_matrices_decay_and_first_step_has_the_size_of_the_rate() -> None:
    linear = module()
    optimizer = build_adamw(linear, lr=1.0, eps=0.0, weight_decay=0.5)
    set_learning_rate(optimizer, 0.1)
    linear.weight.grad = torch.full((1, 2), 3.0)
    linear.bias.grad = torch.full((1,), -3.0)
    optimizer.step()
    # Adam's first step is lr * sign(gradient) (Kingma and Ba 2014); the decay takes lr * 0.5 of the weight before.
    torch.testing.assert_close(linear.weight.detach(), torch.full((1, 2), 1 - 0.1 * 0.5 - 0.1))
    torch.testing.assert_close(linear.bias.detach(), torch.full((1,), 1 + 0.1))


def test_frozen_parameters_are_left_out() -> None:
    linear = module()
    linear.bias.requires_grad_(False)
    optimizer = build_adamw(linear, lr=1.0)
    assert [p for g in optimizer.param_groups for p in g["params"]] == [linear.weight]


@pytest.mark.parametrize(("max_norm", "factor"), [(2.5, 0.5), (5.0, 1.0), (math.inf, 1.0)])
def test_clip(max_norm: float, factor: float) -> None:
    linear = module()
    optimizer = build_adamw(linear, lr=1.0)
    linear.weight.grad = torch.tensor([[3.0, 0.0]])
    linear.bias.grad = torch.tensor([4.0])
    norm = gradient_norm(optimizer)
    assert norm == 5.0
    clip_grad_norm(optimizer, max_norm, norm=norm)
    torch.testing.assert_close(linear.weight.grad, torch.tensor([[3.0 * factor, 0.0]]))
    torch.testing.assert_close(linear.bias.grad, torch.tensor([4.0 * factor]))
