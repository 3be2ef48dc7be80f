from __future__ import annotations

import pytest
import torch

from aha.objective.algorithms import Critic
from aha.objective.gae import gae, pad, policy_lambda, token_rewards


def slow_gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """Equation 16 of 1506.02438 as a double sum."""
    T = len(rewards)
    delta = [rewards[t] + gamma * (values[t + 1] if t + 1 < T else 0.0) - values[t] for t in range(T)]
    return [sum((gamma * lam) ** k * delta[t + k] for k in range(T - t)) for t in range(T)]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (1.0, 0.95), (0.9, 0.5), (0.99, 0.0)])
def test_equals_the_slow_reference_for_sequences_of_any_length(gamma: float, lam: float) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = [1, 7, 4]
    rewards = [torch.randn(n, generator=generator, dtype=torch.float64) for n in lengths]
    values = [torch.randn(n, generator=generator, dtype=torch.float64) for n in lengths]
    lam_B = torch.full((3,), lam, dtype=torch.float64)
    result = gae(pad(rewards), pad(values), torch.tensor(lengths), gamma=gamma, lam_B=lam_B)
    for i, n in enumerate(lengths):
        expected = slow_gae(rewards[i].tolist(), values[i].tolist(), gamma, lam)
        torch.testing.assert_close(result[i, :n], torch.tensor(expected, dtype=torch.float64))
        assert not result[i, n:].any()


def test_what_stands_behind_the_end_does_not_matter() -> None:
    rewards, values = torch.randn(2, 5), torch.randn(2, 5)
    lengths, lam = torch.tensor([3, 5]), torch.full((2,), 0.9)
    dirty = gae(rewards, values, lengths, gamma=0.9, lam_B=lam)
    rewards[0, 3:], values[0, 3:] = 7.0, -7.0
    assert torch.equal(gae(rewards, values, lengths, gamma=0.9, lam_B=lam), dirty)


def test_without_values_these_are_rewards_to_go() -> None:
    rewards = torch.tensor([[0.0, -0.5, 1.0]])
    result = gae(rewards, torch.zeros(1, 3), torch.tensor([3]), gamma=1.0, lam_B=torch.ones(1))
    torch.testing.assert_close(result, torch.tensor([[0.5, 0.5, 1.0]]))


def test_with_lambda_one_the_targets_are_the_returns_whatever_the_values_are() -> None:
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[3.0, -2.0, 5.0]])
    advantages = gae(rewards, values, torch.tensor([3]), gamma=1.0, lam_B=torch.ones(1))
    torch.testing.assert_close(advantages + values, torch.ones(1, 3))


def test_the_outcome_comes_at_the_last_token_and_penalties_at_each() -> None:
    lengths = torch.tensor([2, 3])
    penalties = torch.tensor([[0.1, 0.2, 9.0], [0.0, 0.0, 0.5]])
    expected = torch.tensor([[-0.1, 0.8, 0.0], [0.0, 0.0, 1.5]])
    torch.testing.assert_close(token_rewards(torch.tensor([1.0, 2.0]), lengths, penalties), expected)
    torch.testing.assert_close(
        token_rewards(torch.tensor([1.0, 2.0]), lengths), torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    )


def test_lambda_of_vapo_grows_with_the_length() -> None:
    lengths = torch.tensor([10, 100, 1000])
    # 1 - 1 / (0.05 * 100) = 0.8; of 10 tokens it would be -1
    torch.testing.assert_close(
        policy_lambda(Critic(length_alpha=0.05), lengths), torch.tensor([0.0, 0.8, 0.98], dtype=torch.float64)
    )
    assert policy_lambda(Critic(lam_policy=0.95), lengths).tolist() == [0.95] * 3
