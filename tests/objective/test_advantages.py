from __future__ import annotations

import math

import torch

from aha.objective.advantages import group_advantages


def all_valid(rewards: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(rewards, dtype=torch.bool)


def test_one_right_of_four_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    # mean 1/4; population variance (9 + 1 + 1 + 1) / 16 / 4 = 3/16
    std = math.sqrt(3) / 4
    expected = torch.tensor([[0.75 / std, -0.25 / std, -0.25 / std, -0.25 / std]], dtype=torch.float64)
    torch.testing.assert_close(group_advantages(rewards, all_valid(rewards), eps=0.0), expected)


def test_without_scaling_is_centred_only() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.5, 0.5]])
    result = group_advantages(rewards, all_valid(rewards), scale="none")
    torch.testing.assert_close(result, torch.tensor([[0.5, -0.5, 0.0, 0.0]]))


def test_eps_is_added_to_the_deviation() -> None:
    rewards = torch.tensor([[1.0, -1.0]])
    result = group_advantages(rewards, all_valid(rewards), eps=1.0)
    torch.testing.assert_close(result, torch.tensor([[0.5, -0.5]]))


def test_groups_are_independent() -> None:
    rewards = torch.tensor([[1.0, 0.0, 3.0], [0.2, 0.9, 0.9]])
    both = group_advantages(rewards, all_valid(rewards))
    for p in range(2):
        alone = group_advantages(rewards[p : p + 1], all_valid(rewards[p : p + 1]))
        assert torch.equal(both[p : p + 1], alone)


def test_equal_rewards_give_exactly_zero_although_rounding_does_not() -> None:
    rewards = torch.full((1, 7), 0.1)
    rounded = rewards - rewards.sum(1, keepdim=True) / 7
    assert rounded.abs().max() > 0, "the case must be one in which r - mean is not 0"
    for scale in ("std", "none"):
        assert torch.equal(group_advantages(rewards, all_valid(rewards), scale=scale), torch.zeros(1, 7))


def test_invalid_rewards_are_left_out_even_when_nan() -> None:
    rewards = torch.tensor([[1.0, float("nan"), 0.0, 0.0]])
    valid = torch.tensor([[True, False, True, True]])
    result = group_advantages(rewards, valid)
    known = torch.tensor([[1.0, 0.0, 0.0]])
    torch.testing.assert_close(result[valid][None], group_advantages(known, all_valid(known)))
    assert result[0, 1] == 0


def test_no_or_one_valid_sample_gives_zero() -> None:
    rewards = torch.tensor([[1.0, 5.0], [2.0, 3.0]])
    valid = torch.tensor([[False, False], [True, False]])
    assert torch.equal(group_advantages(rewards, valid), torch.zeros(2, 2))
