"""Which samples of a group are trained on. Shapes: P problems, G samples per problem."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from aha.objective.algorithms import Algorithm


def has_signal(rewards_PG: Tensor, valid_PG: Tensor) -> Tensor:
    """Groups whose valid rewards are not all equal, [P]: the others move nothing (DAPO, 2503.14476, section 3.2)."""
    highest_P = torch.where(valid_PG, rewards_PG, -torch.inf).amax(1)
    lowest_P = torch.where(valid_PG, rewards_PG, torch.inf).amin(1)
    return highest_P > lowest_P


def most_telling(advantages_PG: Tensor, *, prune: float) -> Tensor:
    """True for the ``floor(G * (1 - prune))``, at least one, samples of each group with the largest absolute advantage,
    [P, G]; of equal ones the first. Source: CPPO (2503.22342) section 3.2."""
    G = advantages_PG.shape[1]
    kept = max(1, math.floor(G * (1 - prune) + 1e-9))
    order_PG = advantages_PG.abs().sort(dim=1, descending=True, stable=True).indices
    return torch.zeros_like(advantages_PG, dtype=torch.bool).scatter(1, order_PG[:, :kept], True)


def loss_scale(algorithm: Algorithm, advantages: Sequence[float]) -> float:
    """What the loss is multiplied by: B / (B - M) for M of B samples without an advantage (GPG, 2504.02546), 1 for
    other rows and where no sample has one."""
    telling = sum(advantage != 0 for advantage in advantages)
    return len(advantages) / telling if algorithm.rescale and telling else 1.0
