"""From rewards to what every token of a rollout is trained with: the row of the table of algorithms, carried out.

Axes: ``P`` groups that are kept, ``G`` samples of each, ``B`` = P * G completions, ``T`` tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aha.errors import InvariantError
from aha.objective.advantages import outcome_advantages, process_advantages, whiten
from aha.objective.algorithms import Algorithm
from aha.objective.gae import gae, pad, policy_lambda, token_rewards
from aha.objective.selection import loss_scale, most_telling
from aha.records import FinishReason
from aha.stages.rollout import Rollout

Advantage = float | list[float]
Steps = Sequence[tuple[int, float]]
"""(index of its last token, reward) of each step of a completion."""


@dataclass(frozen=True)
class Credit:
    """One entry for each completion of the kept groups: its place in the rollout, its advantage (one number, or one for
    each token), whether it is trained on (what is not counts in no denominator either); ``returns`` are a critic's
    targets. ``scale`` multiplies the loss."""

    places: list[int]
    advantages: list[Advantage]
    chosen: list[bool]
    returns: list[Tensor] | None
    scale: float


def assign_credit(
    rollout: Rollout,
    algorithm: Algorithm,
    *,
    steps: Sequence[Steps] = (),
    penalties: Sequence[Tensor] | None = None,
    values: Sequence[Tensor] | None = None,
    greedy_rewards: Sequence[float] | None = None,
    mask_truncated: bool = False,
) -> Credit:
    """``penalties`` (beta times the KL estimate) and ``values`` have one tensor over the tokens for each kept
    completion, ``steps`` the steps of each, ``greedy_rewards`` one number for each kept group: NaN where the
    verifier of the greedy answer failed, so that nothing is known of the whole group.

    A completion whose verifier failed is not trained on, be it by policy, critic or KL; with ``mask_truncated`` neither
    is one that was cut (DAPO's overlong filter). Its reward, or its steps', still count for its group; where a row has
    no groups, it is as if it were not there. A group that is pruned keeps the most telling of those that remain.
    """
    G = rollout.rewards_PG.shape[1]
    places = [p * G + g for p in rollout.kept for g in range(G)]
    rewards_PG, valid_PG = rollout.rewards_PG[rollout.kept], rollout.valid_PG[rollout.kept]
    lengths_B = torch.tensor([len(rollout.groups[i // G].completions[i % G].token_ids) for i in places])
    greedy_P = None if greedy_rewards is None else torch.tensor(greedy_rewards, dtype=torch.float64)
    if greedy_P is not None:
        valid_PG = valid_PG & greedy_P.isfinite()[:, None]
    judged: list[bool] = valid_PG.flatten().tolist()
    usable = judged
    if mask_truncated:
        usable = [j and rollout.finish[i] is not FinishReason.LENGTH for j, i in zip(judged, places, strict=True)]
    advantages: list[Advantage]
    returns = None
    if algorithm.process:
        advantages = _of_steps(algorithm, G, judged, lengths_B.tolist(), steps)
    elif algorithm.per_token:
        advantages, returns = _per_token(algorithm, rewards_PG, usable, lengths_B, penalties=penalties, values=values)
    else:
        if penalties is not None:
            rewards_PG = rewards_PG - torch.stack([p.double().sum() for p in penalties]).view_as(rewards_PG)
        usable_PG = torch.tensor(usable, dtype=torch.bool).view_as(valid_PG)
        counted_PG = usable_PG if algorithm.baseline == "batch" else valid_PG
        advantages_PG = outcome_advantages(
            rewards_PG, counted_PG, baseline=algorithm.baseline, scale=algorithm.scale, greedy_P=greedy_P
        )
        if algorithm.prune:
            telling = most_telling(torch.where(usable_PG, advantages_PG, 0.0), prune=algorithm.prune).flatten().tolist()
            usable = [u and t for u, t in zip(usable, telling, strict=True)]
        advantages = list(advantages_PG.flatten().tolist())
    advantages = [a if u else 0.0 for a, u in zip(advantages, usable, strict=True)]
    scale = loss_scale(algorithm, [a for a, u in zip(advantages, usable, strict=True) if u and not isinstance(a, list)])
    return Credit(places, advantages, usable, returns, scale)


def _per_token(
    algorithm: Algorithm,
    rewards_PG: Tensor,
    usable: Sequence[bool],
    lengths_B: Tensor,
    *,
    penalties: Sequence[Tensor] | None,
    values: Sequence[Tensor] | None,
) -> tuple[list[Advantage], list[Tensor] | None]:
    outcomes_B = torch.where(torch.tensor(usable), rewards_PG.flatten(), 0.0)
    penalties_BT = None if penalties is None else pad([p.double() for p in penalties])
    rewards_BT = token_rewards(outcomes_B, lengths_B, penalties_BT)
    if algorithm.critic is None:
        values_BT, lam_B, gamma = torch.zeros_like(rewards_BT), torch.ones(len(lengths_B), dtype=torch.float64), 1.0
    else:
        if values is None:
            raise InvariantError(f"algorithm {algorithm.name!r} needs a critic's values")
        values_BT = pad([v.double() for v in values])
        lam_B, gamma = policy_lambda(algorithm.critic, lengths_B), algorithm.critic.gamma
    advantages_BT = gae(rewards_BT, values_BT, lengths_B, gamma=gamma, lam_B=lam_B)
    returns = None
    if algorithm.critic is not None:
        full_B = torch.full_like(lam_B, algorithm.critic.lam_value)
        targets_BT = gae(rewards_BT, values_BT, lengths_B, gamma=gamma, lam_B=full_B) + values_BT
        returns = [targets_BT[i, :length] for i, length in enumerate(lengths_B.tolist())]
    rows = [advantages_BT[i, :length] for i, length in enumerate(lengths_B.tolist())]
    if algorithm.scale == "batch_std":
        known = [row for row, u in zip(rows, usable, strict=True) if u]
        whitened = iter(torch.split(whiten(torch.cat(known)), [len(row) for row in known]) if known else ())
        rows = [next(whitened) if u else torch.zeros_like(row) for row, u in zip(rows, usable, strict=True)]
    return [row.tolist() for row in rows], returns


def _of_steps(
    algorithm: Algorithm, samples: int, judged: Sequence[bool], lengths: Sequence[int], steps: Sequence[Steps]
) -> list[Advantage]:
    """Each group on its own; a completion that nobody could judge has no steps, so that nothing is pooled from it."""
    known = [own if j else [] for own, j in zip(steps, judged, strict=True)]
    ends = [[end for end, _ in own] for own in known]
    rewards = [[reward for _, reward in own] for own in known]
    advantages: list[Advantage] = []
    for start in range(0, len(steps), samples):
        part = slice(start, start + samples)
        advantages += process_advantages(rewards[part], ends[part], lengths[part], scale=algorithm.scale)
    return advantages
