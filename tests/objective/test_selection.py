from __future__ import annotations

import pytest
import torch

from aha.objective.algorithms import ALGORITHMS
from aha.objective.selection import has_signal, loss_scale, most_telling


def test_a_signal_is_a_difference_between_valid_rewards() -> None:
    rewards = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 0.0, 1.0], [0.1, 0.1, 0.1], [1.0, 2.0, 3.0]])
    valid = torch.ones(5, 3, dtype=torch.bool)
    valid[2, 1] = False  # what differs is not known
    valid[4] = False
    assert has_signal(rewards, valid).tolist() == [False, True, False, False, False]


@pytest.mark.parametrize(("prune", "kept"), [(0.0, 8), (0.5, 4), (0.875, 1), (0.99, 1), (0.3, 5)])
def test_pruning_keeps_the_floor_of_the_share(prune: float, kept: int) -> None:
    assert most_telling(torch.randn(3, 8), prune=prune).sum(1).tolist() == [kept] * 3


def test_pruning_takes_a_share_as_it_is_written() -> None:
    """A fifth of 10 is 2, though ``10 * (1 - 0.8)`` is a little less."""
    assert most_telling(torch.randn(1, 10), prune=0.8).sum() == 2


def test_pruning_keeps_the_largest_of_either_sign_and_the_first_of_equals() -> None:
    advantages = torch.tensor([[0.5, -2.0, 1.0, 0.0], [0.5, 0.5, -0.5, 0.5]])
    assert most_telling(advantages, prune=0.5).tolist() == [[False, True, True, False], [True, True, False, False]]


def test_gpg_weighs_by_all_over_those_with_an_advantage() -> None:
    advantages = [0.5, -0.5, 0.0, 0.0, 0.0, 0.0]
    assert loss_scale(ALGORITHMS["gpg"], advantages) == 3.0
    assert loss_scale(ALGORITHMS["grpo"], advantages) == 1.0
    assert loss_scale(ALGORITHMS["gpg"], [0.0]) == 1.0
