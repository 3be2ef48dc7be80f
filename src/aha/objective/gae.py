"""Credit over time: rewards to go, and generalised advantage estimation. Shapes: B sequences, T tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aha.objective.algorithms import Critic


def token_rewards(outcomes_B: Tensor, lengths_B: Tensor, penalties_BT: Tensor | None = None) -> Tensor:
    """The reward of every token, [B, T]: minus its penalty, and at a sequence's last token also the outcome.

    ``penalties_BT`` is beta times the KL estimate of each token; it also gives T, else that is the longest sequence's.
    Behind a sequence's end stands 0. Source: DeepSeek-R1 (2501.12948v2) A.3; InstructGPT (2203.02155).
    """
    T = int(lengths_B.max()) if penalties_BT is None else penalties_BT.shape[1]
    inside_BT = torch.arange(T) < lengths_B[:, None]
    rewards_BT = outcomes_B.new_zeros(len(outcomes_B), T) if penalties_BT is None else -penalties_BT * inside_BT
    rewards_BT[torch.arange(len(outcomes_B)), lengths_B - 1] += outcomes_B
    return rewards_BT


def gae(rewards_BT: Tensor, values_BT: Tensor, lengths_B: Tensor, *, gamma: float, lam_B: Tensor) -> Tensor:
    """Advantages, [B, T]: ``A[t] = delta[t] + gamma * lam * A[t + 1]``, ``delta[t] = r[t] + gamma * V[t + 1] - V[t]``.

    ``values_BT[:, t]`` is the value of the state in which token t is chosen; after the last token it is 0, whether the
    sequence ended or was cut. ``lam_B`` has each sequence's lambda. Behind the end stands 0. With V = 0 and
    gamma = lam = 1 these are the rewards to go. The value's target is A + V with the value's own lambda.

    Source: Schulman et al. (1506.02438) equation 16; DeepSeek-R1 (2501.12948v2) A.3.
    """
    inside_BT = torch.arange(rewards_BT.shape[1]) < lengths_B[:, None]
    rewards_BT, values_BT = rewards_BT * inside_BT, values_BT * inside_BT
    following_BT = torch.cat((values_BT[:, 1:], values_BT.new_zeros(len(values_BT), 1)), 1)
    delta_BT = rewards_BT + gamma * following_BT - values_BT
    advantages_BT = torch.empty_like(delta_BT)
    running_B = delta_BT.new_zeros(len(delta_BT))
    for t in range(delta_BT.shape[1] - 1, -1, -1):
        running_B = delta_BT[:, t] + gamma * lam_B * running_B
        advantages_BT[:, t] = running_B
    return advantages_BT * inside_BT


def policy_lambda(critic: Critic, lengths_B: Tensor) -> Tensor:
    """The policy's lambda for each sequence, [B]: the row's, or ``1 - 1 / (alpha * length)`` (VAPO, 2504.05118, 4.2),
    which is at least 0."""
    if critic.length_alpha is None:
        return torch.full(lengths_B.shape, critic.lam_policy, dtype=torch.float64)
    return (1 - 1 / (critic.length_alpha * lengths_B.double())).clamp(min=0)


def pad(rows: Sequence[Tensor]) -> Tensor:
    """Rows of different lengths as [B, T], 0 behind each."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
