from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch

from aha.objective.algorithms import ALGORITHMS, Algorithm
from aha.objective.kl import k1, k2, k3
from aha.objective.policy import clipped as clipped_at
from aha.objective.policy import clipped_loss, clipped_policy_loss, importance_weights, policy_loss
from aha.objective.weights import token_weights


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
    below, above = clipped_at(torch.tensor([ratio]), adv, low=0.2, high=0.28)
    assert (below | above).item() is clipped


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


LENGTHS = [3, 1, 4]
ROW = torch.repeat_interleave(torch.arange(3), torch.tensor(LENGTHS))


def problem(seed: int = 0, *, spread: float = 0.4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    old = -torch.rand(8, generator=generator, dtype=torch.float64)
    logp = old + spread * torch.randn(8, generator=generator, dtype=torch.float64)
    advantages = torch.tensor([1.3, -0.7, 0.4], dtype=torch.float64)[ROW]
    return logp, old, advantages


def slow_loss(algorithm: Algorithm, logp: list[float], old: list[float], advantages: list[float]) -> list[float]:
    """The equations of the rows, one token at a time."""
    losses: list[float] = []
    start = 0
    for length in LENGTHS:
        part = range(start, start + length)
        change = [logp[t] - old[t] for t in part]
        for t in part:
            step = sum(change) / length if algorithm.ratio == "sequence" else logp[t] - old[t]
            ratio, adv = math.exp(step), advantages[t]
            if algorithm.ratio == "none":
                loss = -adv * logp[t]
            elif algorithm.clip == "weight":
                loss = -min(ratio, 1 + algorithm.clip_high) * adv * logp[t]
            else:
                bounded = min(max(ratio, 1 - algorithm.clip_low), 1 + algorithm.clip_high)
                loss = -min(min(ratio, algorithm.clip_negative) * adv, bounded * adv)
            losses.append(loss + algorithm.mirror / 2 * sum(change) ** 2 / length)
        start += length
    return losses


@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_row_equals_its_equation(name: str) -> None:
    algorithm = ALGORITHMS[name]
    logp, old, advantages = problem()
    fast = policy_loss(logp, old, advantages, ROW, algorithm=algorithm).loss_N
    slow = slow_loss(algorithm, logp.tolist(), old.tolist(), advantages.tolist())
    torch.testing.assert_close(fast, torch.tensor(slow, dtype=torch.float64))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_row_has_the_gradient_of_finite_differences(name: str) -> None:
    """CISPO's weight is a constant for the gradient: there the finite difference keeps it where it was."""
    algorithm = ALGORITHMS[name]
    logp, old, advantages = problem(1)
    logp.requires_grad_()
    if algorithm.clip == "weight":
        weight = (logp.detach() - old).exp().clamp(max=1 + algorithm.clip_high)
        loss = policy_loss(logp, old, advantages, ROW, algorithm=algorithm).loss_N.sum()
        (gradient,) = torch.autograd.grad(loss, logp)
        torch.testing.assert_close(gradient, -weight * advantages)
    else:
        assert torch.autograd.gradcheck(
            lambda x: policy_loss(x, old, advantages, ROW, algorithm=algorithm).loss_N, (logp,)
        )


@pytest.mark.parametrize("name", ALGORITHMS)
def test_on_policy_every_row_has_the_plain_gradient(name: str) -> None:
    """No clip binds and every ratio is exactly 1. GSPO spreads a sequence's gradient evenly, as its advantage is."""
    logp, _, advantages = problem(2)
    logp.requires_grad_()
    part = policy_loss(logp, logp.detach(), advantages, ROW, algorithm=ALGORITHMS[name])
    (gradient,) = torch.autograd.grad(part.loss_N.sum(), logp)
    torch.testing.assert_close(gradient, -advantages)
    assert part.ratio_N.eq(1).all() and not part.clipped_low_N.any() and not part.clipped_high_N.any()


def test_dapo_with_equal_clips_is_grpo_in_token_form() -> None:
    logp, old, advantages = problem(3)
    dapo = dataclasses.replace(ALGORITHMS["dapo"], clip_high=0.2)
    grpo = dataclasses.replace(ALGORITHMS["grpo"], aggregation="token")
    first, second = (policy_loss(logp, old, advantages, ROW, algorithm=row).loss_N for row in (dapo, grpo))
    assert torch.equal(first, second)
    assert token_weights(LENGTHS, dapo.aggregation).equal(token_weights(LENGTHS, grpo.aggregation))


def test_cispo_keeps_the_gradient_that_a_clip_takes() -> None:
    old, advantages = torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64)
    for name, expected in (("cispo", [-5.0, 0.1]), ("grpo", [0.0, 0.0])):
        logp = torch.tensor([math.log(7.0), math.log(0.1)], dtype=torch.float64, requires_grad=True)
        part = policy_loss(logp, old, advantages, torch.tensor([0, 1]), algorithm=ALGORITHMS[name])
        (gradient,) = torch.autograd.grad(part.loss_N.sum(), logp)
        assert gradient.tolist() == pytest.approx(expected)
        assert part.clipped_high_N.tolist() == [True, False]


def test_gspo_clips_the_sequence_and_not_its_tokens() -> None:
    """Tokens move by +0.3 and -0.3: the sequence has not moved, and nothing is clipped."""
    old = torch.zeros(2, dtype=torch.float64)
    logp = torch.tensor([0.3, -0.3], dtype=torch.float64)
    part = policy_loss(logp, old, torch.ones(2).double(), torch.zeros(2).long(), algorithm=ALGORITHMS["gspo"])
    torch.testing.assert_close(part.ratio_N, torch.ones(2, dtype=torch.float64))
    assert not part.clipped_high_N.any()


def test_a_two_sided_clip_bounds_what_an_unlikely_bad_token_costs() -> None:
    ratio, bad = torch.tensor([100.0]), torch.tensor([-1.0])
    assert clipped_loss(ratio, bad, low=0.2, high=0.2).item() == 100.0
    assert clipped_loss(ratio, bad, low=0.2, high=0.2, negative=4.0).item() == 4.0
    assert clipped_at(ratio, bad, low=0.2, high=0.2, negative=4.0)[1].item()
    # it is the ratio that is capped, whatever the advantage
    assert clipped_loss(ratio, torch.tensor([-2.5]), low=0.2, high=0.2, negative=4.0).item() == 10.0


def test_a_two_sided_clip_under_the_range_binds_from_the_range_on() -> None:
    """Between 0.5 and 0.8 the lower bound of the range is what counts: a token is clipped on one side alone."""
    ratio = torch.tensor([0.4, 0.6, 0.9])
    low, high = clipped_at(ratio, -torch.ones(3), low=0.2, high=0.2, negative=0.5)
    assert low.tolist() == [True, True, False] and high.tolist() == [False, False, True]


def test_a_capped_weight_has_a_lower_bound_where_the_row_has_one() -> None:
    row = dataclasses.replace(ALGORITHMS["cispo"], clip_low=0.2, clip_high=0.3)
    logp = torch.tensor([0.5, 1.0, 2.0]).double().log().requires_grad_()
    zeros, ones = torch.zeros(3).double(), torch.ones(3).double()
    part = policy_loss(logp, zeros, ones, torch.arange(3), algorithm=row)
    (gradient,) = torch.autograd.grad(part.loss_N.sum(), logp)
    assert gradient.tolist() == pytest.approx([-0.8, -1.0, -1.3])


def test_mirror_descent_by_hand() -> None:
    """Kimi k1.5: two tokens that moved by 0.1 and 0.2 cost tau / 2 * 0.3 ** 2 together."""
    old, logp = torch.tensor([-1.0, -1.0]).double(), torch.tensor([-0.9, -0.8], dtype=torch.float64)
    row = dataclasses.replace(ALGORITHMS["kimi"], mirror=2.0)
    part = policy_loss(logp, old, torch.zeros(2).double(), torch.zeros(2).long(), algorithm=row)
    assert part.loss_N.sum().item() == pytest.approx(0.09)


def test_importance_weights_are_capped_and_carry_no_gradient() -> None:
    old = torch.tensor([0.0, 0.0, 0.0], requires_grad=True)
    sampler = torch.tensor([0.0, -5.0, 1.0])
    weights = importance_weights(old, sampler, cap=2.0)
    torch.testing.assert_close(weights, torch.tensor([1.0, 2.0, math.exp(-1)]))
    assert not weights.requires_grad


def test_kl_weighted_by_the_ratio_has_the_true_gradient_in_expectation() -> None:
    """Over all tokens of a small vocabulary: k3 in the loss has a biased gradient, k3 times the ratio has none, and k1
    in the loss has an expected gradient of 0 (so a row with it is refused)."""
    theta = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    ref = torch.randn(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).log_softmax(0)

    def gradient(of: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return torch.autograd.grad(of(theta.log_softmax(0)), theta)[0]

    exact = gradient(lambda logp: (logp.exp() * (logp - ref)).sum())
    at = theta.detach().log_softmax(0)
    weighted = gradient(lambda logp: (at.exp() * k3(logp, ref) * (logp - at).exp()).sum())
    torch.testing.assert_close(weighted, exact)
    plain = gradient(lambda logp: (at.exp() * k3(logp, ref)).sum())
    assert (plain - exact).abs().max() > 0.01
    assert gradient(lambda logp: (at.exp() * k1(logp, ref)).sum()).abs().max() < 1e-12
    torch.testing.assert_close(gradient(lambda logp: (at.exp() * k2(logp, ref)).sum()), exact)
