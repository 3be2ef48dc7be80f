"""How much better a sample is than its group. Shapes: P problems, G samples per problem."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def group_advantages(
    rewards_PG: Tensor, valid_PG: Tensor, *, scale: Literal["std", "none"] = "std", eps: float = 1e-6
) -> Tensor:
    """Reward minus the group's mean, over the group's standard deviation: ``(r - mean) / (std + eps)``, [P, G].

    ``valid_PG`` is False where no reward is known (a verifier failed): such a sample is left out of mean and deviation
    and gets 0. A group whose valid rewards are all equal, or that has fewer than two, gets exactly 0: the test is the
    range of the rewards, since rounding keeps ``r - mean`` of equal rewards away from 0. ``scale="none"`` leaves the
    division out (Dr. GRPO). The papers do not say which deviation; this is the population's (divide by the number of
    samples). ``eps`` is not printed either.

    Source: DeepSeekMath (2402.03300) section 4.1.2; DeepSeek-R1 (2501.12948) equation 3.
    """
    valid_PG = valid_PG.bool()
    zero = torch.zeros((), dtype=rewards_PG.dtype, device=rewards_PG.device)
    count_P1 = valid_PG.sum(1, keepdim=True)
    known_PG = torch.where(valid_PG, rewards_PG, zero)  # a NaN at an invalid place must not spread
    centred_PG = torch.where(valid_PG, known_PG - known_PG.sum(1, keepdim=True) / count_P1.clamp(min=1), zero)
    highest_P1 = torch.where(valid_PG, rewards_PG, -torch.inf).amax(1, keepdim=True)
    lowest_P1 = torch.where(valid_PG, rewards_PG, torch.inf).amin(1, keepdim=True)
    # "not (highest > lowest)" rather than "equal": an empty group has -inf and +inf.
    advantages_PG = torch.where(highest_P1 > lowest_P1, centred_PG, zero)
    if scale == "std":
        std_P1 = (centred_PG.square().sum(1, keepdim=True) / count_P1.clamp(min=1)).sqrt()
        advantages_PG = advantages_PG / (std_P1 + eps)
    return advantages_PG
