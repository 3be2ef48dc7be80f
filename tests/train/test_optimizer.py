from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from aha.errors import SettingError
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


def test_moments_in_bf16_are_adamws_with_each_moment_rounded_after_a_step() -> None:
    """By hand (Loshchilov and Hutter 2019, algorithm 2): two steps of one weight with gradients 0.3 and -0.7."""
    linear = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        linear.weight.fill_(0.5)
    optimizer = build_adamw(linear, lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, moments="bf16")
    weight, first, second = 0.5, 0.0, 0.0
    for step, gradient in enumerate((0.3, -0.7), 1):
        linear.weight.grad = torch.tensor([[gradient]])
        optimizer.step()
        first, second = 0.9 * first + 0.1 * gradient, 0.95 * second + 0.05 * gradient**2
        unbiased = (first / (1 - 0.9**step), second / (1 - 0.95**step))
        weight = weight * (1 - 0.01 * 0.1) - 0.01 * unbiased[0] / (math.sqrt(unbiased[1]) + 1e-8)
        first, second = (float(torch.tensor(moment).bfloat16()) for moment in (first, second))
        state = optimizer.state[linear.weight]
        assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.bfloat16
        assert (float(state["exp_avg"]), float(state["exp_avg_sq"])) == (first, second)
        assert linear.weight.dtype == torch.float32 and linear.weight.item() == pytest.approx(weight, rel=1e-6)


def test_weights_that_are_bf16_alone_stay_so() -> None:
    """A first step of 0.25 in either direction, as of any Adam; moments of both types."""
    for moments in ("float32", "bf16"):
        linear = nn.Linear(3, 5, bias=False, dtype=torch.bfloat16)
        start = linear.weight.detach().clone()
        optimizer = build_adamw(linear, lr=0.25, eps=0.0, weight_decay=0.0, moments=moments)  # type: ignore[arg-type]
        linear.weight.grad = torch.tensor([[1.0, -2.0, 3.0]] * 5, dtype=torch.bfloat16)
        optimizer.step()
        moved = linear.weight.detach().float() - start.float()
        torch.testing.assert_close(moved, torch.tensor([[-0.25, 0.25, -0.25]] * 5), rtol=0, atol=2**-8)


def test_a_moment_in_bf16_that_could_never_fall_is_refused() -> None:
    moment = torch.tensor(1.0).bfloat16()
    assert (0.999 * moment.float()).bfloat16() == moment, "the reason: one step at beta 0.999 is rounded away"
    with pytest.raises(SettingError, match="0.999"):
        build_adamw(module(), lr=1.0, betas=(0.9, 0.999), moments="bf16")
    with pytest.raises(SettingError, match="0.999"):
        build_adamw(module(), lr=1.0, betas=(0.999, 0.95), moments="bf16")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_never_made_longer(dtype: torch.dtype) -> None:
    linear = nn.Linear(2, 1, bias=False, dtype=dtype)
    linear.weight.grad = torch.tensor([[3.0, 4.0]], dtype=dtype)
    optimizer = build_adamw(linear, lr=1.0)
    clip_grad_norm(optimizer, 10.0, norm=gradient_norm(optimizer))
    assert linear.weight.grad.tolist() == [[3.0, 4.0]]
