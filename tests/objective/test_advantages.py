from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from aha.errors import InvariantError
from aha.objective.advantages import group_advantages, outcome_advantages, process_advantages, whiten


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
    result = outcome_advantages(rewards, all_valid(rewards), baseline="group", scale="none")
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
    for scale in ("group_std", "batch_std", "none"):
        for baseline in ("group", "leave_one_out"):
            result = outcome_advantages(rewards, all_valid(rewards), baseline=baseline, scale=scale)
            assert torch.equal(result, torch.zeros(1, 7))


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


REWARDS = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.5]], dtype=torch.float64)
VALID = torch.tensor([[True, True, True, True], [True, True, True, False]])


def slow_advantages(baseline: str, scale: str, greedy: list[float]) -> list[list[float]]:
    """The definitions, one number at a time."""
    rows = [rewards[valid].tolist() for rewards, valid in zip(REWARDS, VALID, strict=True)]
    everything = [r for row in rows for r in row]
    centred = []
    for p, row in enumerate(rows):
        if baseline == "group":
            centred.append([r - sum(row) / len(row) for r in row])
        elif baseline == "leave_one_out":
            centred.append([r - (sum(row) - r) / (len(row) - 1) for r in row])
        elif baseline == "batch":
            centred.append([r - sum(everything) / len(everything) for r in row])
        elif baseline == "greedy":
            centred.append([r - greedy[p] for r in row])
        else:
            centred.append(row)
    flat = [a for row in centred for a in row]
    mean = sum(flat) / len(flat)
    batch_std = math.sqrt(sum((a - mean) ** 2 for a in flat) / len(flat))
    result = []
    for row in centred:
        std = {"none": 1.0, "batch_std": batch_std, "group_std": math.sqrt(sum(a * a for a in row) / len(row))}[scale]
        result.append([a / std for a in row])
    return result


BASELINES = ("none", "batch", "group", "leave_one_out", "greedy")


@pytest.mark.parametrize(
    ("baseline", "scale"),
    [
        *((baseline, scale) for baseline in BASELINES for scale in ("none", "batch_std")),
        *((baseline, "group_std") for baseline in ("group", "leave_one_out")),  # a group's deviation from its own mean
    ],
)
def test_each_baseline_and_scale_equals_the_slow_definition(baseline: Any, scale: Any) -> None:
    greedy = torch.tensor([0.25, 1.0], dtype=torch.float64)
    fast = outcome_advantages(REWARDS, VALID, baseline=baseline, scale=scale, greedy_P=greedy, eps=0.0)
    slow = slow_advantages(baseline, scale, greedy.tolist())
    for p, row in enumerate(slow):
        torch.testing.assert_close(fast[p][VALID[p]], torch.tensor(row, dtype=torch.float64))
    assert fast[1, 3] == 0


def test_dr_grpo_is_rloo_but_for_a_factor() -> None:
    """G / (G - 1): the leave-one-out advantage is that much larger (Dr. GRPO, 2503.20783, section 3.1)."""
    dr = outcome_advantages(REWARDS[:1], VALID[:1], baseline="group", scale="none")
    rloo = outcome_advantages(REWARDS[:1], VALID[:1], baseline="leave_one_out", scale="none")
    torch.testing.assert_close(rloo, dr * 4 / 3)
    # By hand: 1 - 0 and 0 - 1/3.
    torch.testing.assert_close(rloo, torch.tensor([[1.0, -1 / 3, -1 / 3, -1 / 3]], dtype=torch.float64))


def test_a_greedy_baseline_without_its_rewards_is_an_error() -> None:
    with pytest.raises(InvariantError, match="greedy"):
        outcome_advantages(REWARDS, VALID, baseline="greedy", scale="none")


def test_process_advantages_by_hand() -> None:
    """Two samples: steps 1, 0 and 1. Mean 2/3, population deviation sqrt(2)/3: normalised 1/sqrt(2) and -sqrt(2)."""
    up, down = 1 / math.sqrt(2), -math.sqrt(2)
    result = process_advantages([[1.0, 0.0], [1.0]], [[1, 3], [2]], [5, 3], scale="group_std", eps=0.0)
    # tokens 0-1 lie before both ends, 2-3 before the second, 4 behind the last
    assert result[0] == pytest.approx([up + down, up + down, down, down, 0.0])
    assert result[1] == pytest.approx([up, up, up])
    assert process_advantages([[0.5], [0.5]], [[0], [1]], [1, 2], scale="group_std") == [[0.0], [0.0, 0.0]]
    assert process_advantages([[], []], [[], []], [1, 2], scale="group_std") == [[0.0], [0.0, 0.0]]


def test_one_step_at_the_end_is_outcome_supervision() -> None:
    rewards = [1.0, 0.0, 0.0, 0.5]
    result = process_advantages([[r] for r in rewards], [[3]] * 4, [4] * 4, scale="group_std")
    outcome = group_advantages(torch.tensor([rewards], dtype=torch.float64), torch.ones(1, 4, dtype=torch.bool))
    assert result == [pytest.approx([a] * 4) for a in outcome[0].tolist()]


@pytest.mark.parametrize("ends", [[4], [1, 1], [2, 1], [-1], [0, 1]])
def test_step_ends_that_cannot_be_are_named(ends: list[int]) -> None:
    with pytest.raises(InvariantError, match="sample 0 of 4 tokens"):
        process_advantages([[1.0] * (len(ends) if ends != [0, 1] else 1)], [ends], [4], scale="none")


def test_whitening_by_hand() -> None:
    torch.testing.assert_close(whiten(torch.tensor([1.0, 3.0]), eps=0.0), torch.tensor([-1.0, 1.0]))
    assert torch.equal(whiten(torch.full((7,), 0.1)), torch.zeros(7))
    assert whiten(torch.zeros(0)).shape == (0,)
