"""How much better a sample is than was to be expected. Shapes: P problems, G samples per problem, N tokens.

Rewards that are not known (a verifier failed) are invalid: left out of every mean and deviation, and given 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aha.errors import InvariantError
from aha.objective.algorithms import Baseline, Scale


def outcome_advantages(
    rewards_PG: Tensor,
    valid_PG: Tensor,
    *,
    baseline: Baseline,
    scale: Scale,
    greedy_P: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """One advantage for each sample: reward minus ``baseline``, over ``scale``; [P, G].

    "group": mean of the group (DeepSeekMath, 2402.03300, section 4.1.2; DeepSeek-R1, 2501.12948, equation 3).
    "leave_one_out": mean of the others of the group, which is G / (G - 1) times the same (RLOO, 2402.14740).
    "batch": mean of all samples. "greedy": the reward ``greedy_P`` of the problem's greedy answer (ReMax, 2310.10505).
    "none" and "critic" leave the reward as it is.

    A baseline of the group needs two valid samples: alone, a sample gets 0. Where the group's valid rewards are equal
    its advantages are exactly 0: the test is their range, since rounding keeps ``r - mean`` of equal rewards away from
    0. "group_std" and "batch_std" divide by the population's deviation plus ``eps`` (the papers do not say which
    deviation, nor ``eps``); the batch's is that of the centred rewards of all valid samples, as in REINFORCE++
    (2501.03262) and Lite-PPO. Dr. GRPO leaves the division out.
    """
    valid_PG = valid_PG.bool()
    zero = torch.zeros((), dtype=rewards_PG.dtype, device=rewards_PG.device)
    known_PG = torch.where(valid_PG, rewards_PG, zero)  # a NaN at an invalid place must not spread
    count_P1 = valid_PG.sum(1, keepdim=True)
    if baseline in ("group", "leave_one_out"):
        mean_P1 = known_PG.sum(1, keepdim=True) / count_P1.clamp(min=1)
        centred_PG = known_PG - mean_P1
        if baseline == "leave_one_out":
            centred_PG = centred_PG * (count_P1 / (count_P1 - 1).clamp(min=1))
        highest_P1 = torch.where(valid_PG, rewards_PG, -torch.inf).amax(1, keepdim=True)
        lowest_P1 = torch.where(valid_PG, rewards_PG, torch.inf).amin(1, keepdim=True)
        # "not (highest > lowest)" rather than "equal": an empty group has -inf and +inf.
        centred_PG = torch.where(highest_P1 > lowest_P1, centred_PG, zero)
    elif baseline == "batch":
        centred_PG = known_PG - known_PG.sum() / valid_PG.sum().clamp(min=1)
    elif baseline == "greedy":
        if greedy_P is None:
            raise InvariantError("a greedy baseline without the rewards of the greedy answers")
        centred_PG = known_PG - greedy_P[:, None]
    else:
        centred_PG = known_PG
    centred_PG = torch.where(valid_PG, centred_PG, zero)
    if scale == "group_std":
        std_P1 = (centred_PG.square().sum(1, keepdim=True) / count_P1.clamp(min=1)).sqrt()
        return centred_PG / (std_P1 + eps)
    if scale == "batch_std":
        variance = centred_PG[valid_PG].var(correction=0) if valid_PG.any() else zero
        return centred_PG / (variance.sqrt() + eps)
    return centred_PG


def group_advantages(rewards_PG: Tensor, valid_PG: Tensor, *, eps: float = 1e-6) -> Tensor:
    """GRPO's: reward minus the group's mean over the group's deviation, [P, G] (:func:`outcome_advantages`)."""
    return outcome_advantages(rewards_PG, valid_PG, baseline="group", scale="group_std", eps=eps)


def process_advantages(
    step_rewards: Sequence[Sequence[float]],
    step_ends: Sequence[Sequence[int]],
    lengths: Sequence[int],
    *,
    scale: Scale,
    eps: float = 1e-6,
) -> list[list[float]]:
    """One advantage for each token of each sample of ONE group, from rewards of its steps.

    ``step_ends[i][j]`` is the index of the last token of step j of sample i, which has ``lengths[i]`` tokens. All step
    rewards of the group are normalised together; a token gets the sum of those of the steps that end at or after it:
    ``A[i][t] = sum over j with end[j] >= t of (r[i][j] - mean) / (std + eps)``. A sample without steps gets 0.
    ``InvariantError`` for an end outside the sample or ends that do not rise.

    Source: DeepSeekMath (2402.03300) section 4.1.3.
    """
    pooled = torch.tensor([reward for rewards in step_rewards for reward in rewards], dtype=torch.float64)
    if pooled.numel() and pooled.max() > pooled.min():
        centred = pooled - pooled.mean()
        normalised = iter((centred / (pooled.std(correction=0) + eps) if scale == "group_std" else centred).tolist())
    else:
        normalised = iter([0.0] * pooled.numel())
    advantages = []
    for i, (ends, rewards, length) in enumerate(zip(step_ends, step_rewards, lengths, strict=True)):
        if len(ends) != len(rewards) or any(not 0 <= end < length for end in ends) or list(ends) != sorted(set(ends)):
            raise InvariantError(f"sample {i} of {length} tokens has {len(rewards)} step rewards and step ends {ends}")
        at_end = torch.zeros(length, dtype=torch.float64)
        for end in ends:
            at_end[end] = next(normalised)
        advantages.append(at_end.flip(0).cumsum(0).flip(0).tolist())
    return advantages


def whiten(values_N: Tensor, *, eps: float = 1e-6) -> Tensor:
    """``(values - mean) / (std + eps)`` over all tokens of the batch, [N]; equal values give exactly 0.

    Source: REINFORCE++ (2501.03262); the usual normalisation of PPO's advantages.
    """
    if not values_N.numel() or not values_N.max() > values_N.min():
        return torch.zeros_like(values_N)
    return (values_N - values_N.mean()) / (values_N.std(correction=0) + eps)
