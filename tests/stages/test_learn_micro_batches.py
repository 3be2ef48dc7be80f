"""What one rollout teaches does not depend on how it is cut into micro-batches."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import nn

from aha.objective.algorithms import ALGORITHMS
from aha.records import Completion, FinishReason, Group
from aha.reward.rubric import Reward, each
from aha.reward.rules import format_tags
from aha.stages.learn import build_learner, learn
from aha.stages.models import Policy
from aha.stages.rollout import Rollout, judge_groups
from aha.testing import few_problems, tiny_policy


def double(module: nn.Module) -> nn.Module:
    """In float64, and with weights far enough from zero that every token has its own probability."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    return module.double()


def rollout_of(policy: Policy) -> Rollout:
    """Four groups of four completions of one to nine random words, log-probs and rewards at random."""
    rng, generator = random.Random(3), torch.Generator().manual_seed(3)
    groups = []
    for problem in few_problems()[:1] * 4:
        completions = []
        for _ in range(4):
            ids = tuple(rng.randrange(3, policy.config.vocab_size) for _ in range(rng.randint(1, 9)))
            logprobs = tuple(rng.uniform(-6.0, -4.0) for _ in ids)
            completions.append(Completion(ids, logprobs, FinishReason.END, 0))
        prompt = tuple(rng.randrange(3, policy.config.vocab_size) for _ in range(rng.randint(2, 6)))
        groups.append(Group(problem, prompt, tuple(completions)))
    rollout = judge_groups(policy, groups, [Reward("format", each(format_tags), 1.0, lambda _: True)], progress=0.0)
    rollout.rewards_PG.copy_(torch.randn(4, 4, generator=generator, dtype=torch.float64))
    return rollout


def gradients(name: str, *, token_budget: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the policy and of the critic: weights before minus weights after plain descent of rate 1 without clipping."""
    policy = tiny_policy(seed=1)
    double(policy.decoder)
    learner = build_learner(policy, ALGORITHMS[name], lr=1.0)
    if learner.reference is not None:
        double(learner.reference)  # four times as large again: a KL that is not 0
    learner.optimizer = torch.optim.SGD(policy.decoder.parameters(), lr=1.0)
    if learner.critic is not None:
        learner.critic_optimizer = torch.optim.SGD(learner.critic.parameters(), lr=1.0)
    before = flat(policy.decoder), flat(learner.critic)
    learned = learn(
        learner,
        rollout_of(policy),
        rng=random.Random(0),
        lr=1.0,
        max_grad_norm=math.inf,
        temperature=1.0,
        token_budget=token_budget,
        max_new_tokens=9,
        importance_cap=2.0,
    )
    assert len(learned.updates) == 1
    return before[0] - flat(policy.decoder), before[1] - flat(learner.critic)


def flat(module: nn.Module | None) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()]) if module is not None else torch.zeros(1)


@pytest.mark.parametrize("name", ["grpo", "reinforce++", "dr-grpo", "reinforce", "gpg", "ppo"])
def test_the_gradient_is_the_same_for_any_token_budget(name: str) -> None:
    """Mean of each sequence with a KL; of all tokens with a KL in the reward; by a constant; sums; rescaled; critic."""
    policy, critic = gradients(name, token_budget=100_000)
    assert policy.norm() > 1e-3 and (ALGORITHMS[name].critic is None or critic.norm() > 1e-3)
    for budget in (40, 1):
        other_policy, other_critic = gradients(name, token_budget=budget)
        assert (policy - other_policy).norm() <= 1e-6 * policy.norm()
        assert (critic - other_critic).norm() <= 1e-6 * critic.norm()
