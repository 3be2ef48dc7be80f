"""What one rollout teaches, and what a step says of it: only completions whose verdict is known count."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from aha.model.heads import ProcessRewardModel
from aha.objective.algorithms import ALGORITHMS
from aha.records import Completion, FinishReason, Group
from aha.reward.process import score_steps
from aha.reward.response import read_response
from aha.reward.rubric import Scored
from aha.stages.credit import assign_credit
from aha.stages.learn import Learner, build_learner, learn, reward_steps
from aha.stages.models import Policy
from aha.stages.rl_metrics import step_metrics
from aha.stages.rollout import Rollout
from aha.testing import byte_tokenizer, few_problems, tiny_policy
from aha.train.batch import PolicyRow, collate_policy
from aha.train.step import compute_logprobs

BYTES = byte_tokenizer()
SETTINGS: dict[str, Any] = {
    "lr": 1e-2, "max_grad_norm": 1.0, "temperature": 1.0, "token_budget": 512, "max_new_tokens": 8,
    "importance_cap": 2.0,
}  # fmt: skip


def policy_of(seed: int) -> Policy:
    return tiny_policy(seed=seed, tokenizer=BYTES)


def on_policy(
    policy: Policy, rewards_PG: Sequence[Sequence[float]], valid_PG: Sequence[Sequence[bool]] | None = None
) -> Rollout:
    """Groups of random tokens with the log-probs that ``policy`` itself gives them, judged as told."""
    rng, G = random.Random(0), len(rewards_PG[0])
    groups, V = [], policy.config.vocab_size
    for p in range(len(rewards_PG)):
        problem, prompt = replace(few_problems()[2], id=str(p)), (p + 1, p + 2, 3)
        said = [tuple(rng.randrange(V) for _ in range(rng.randint(3, 8))) for _ in range(G)]
        rows = [PolicyRow(prompt, ids, 0.0, [0.0] * len(ids)) for ids in said]
        (batch,) = collate_policy(rows, weights=[1.0] * G, token_budget=512)
        logp = batch.by_row(compute_logprobs(policy.decoder, [batch])[0])
        known = [Completion(ids, tuple(logp[g].tolist()), FinishReason.END, 0) for g, ids in enumerate(said)]
        groups.append(Group(problem, prompt, tuple(known)))
    B = len(groups) * G
    valid = torch.ones(len(groups), G, dtype=torch.bool) if valid_PG is None else torch.tensor(valid_PG)
    rewards = torch.tensor(rewards_PG, dtype=torch.float64)
    return Rollout(
        groups=groups,
        problems=[group.problem for group in groups for _ in range(G)],
        texts=[""] * B,
        responses=[read_response("")] * B,
        scored=Scored(rewards.flatten().tolist(), {}, valid.flatten().tolist()),
        right=list(rewards.flatten().tolist()),
        finish=[FinishReason.END] * B,
        rewards_PG=rewards,
        valid_PG=valid,
        kept=list(range(len(groups))),
    )


def with_moments(policy: Policy, algorithm: str, **changes: Any) -> Learner:
    """A learner of a row of the table, after one update: its optimiser remembers a gradient."""
    learner = build_learner(policy, replace(ALGORITHMS[algorithm], **changes), lr=1e-2)
    learn(learner, on_policy(policy, [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), rng=random.Random(0), **SETTINGS)
    return learner


def test_agreement_is_only_said_of_the_weights_that_sampled() -> None:
    """Two of three groups have no gradient, so neither do some mini-batches; their update still moves the weights."""
    rows = []
    for seed in range(10):
        learner = with_moments(policy_of(0), "gspo", minibatches=3)
        rollout = on_policy(learner.policy, [[1.0] * 3, [0.0] * 3, [0.0, 1.0, 0.0]])
        found = learn(learner, rollout, rng=random.Random(seed), **SETTINGS)
        rows.append((step_metrics(1, rollout, found, lr=1e-2), [update["tokens"] > 0 for update in found.updates]))
    assert {("logprob_gap" in row, "entropy" in row, on_policy_first) for row, (on_policy_first, *_) in rows} == {
        (True, True, True), (False, False, False),
    }  # fmt: skip
    assert all(row.get("logprob_gap", 0.0) < 1e-5 and "ess" in row for row, _ in rows)


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        *((name, False) for name in ("grpo", "dr-grpo", "dapo", "gpg", "kimi", "reinforce")),
        *((name, cut) for name in ("reinforce++", "ppo", "vapo") for cut in (False, True)),  # no group mean
    ],
)
def test_a_completion_that_is_not_trained_on_might_as_well_not_be_there(name: str, cut: bool) -> None:
    """Neither in the gradient (KL, critic) nor in a denominator: a verifier failed, or a cut completion is masked."""
    gradients = []
    for there in (True, False):
        policy = policy_of(0)
        learner = build_learner(policy, replace(ALGORITHMS[name], minibatches=1, refill=0.0), lr=1e-2)
        if learner.reference is not None:
            learner.reference.load_state_dict(policy_of(1).decoder.state_dict())
        whole = on_policy(policy, [[1.0, 0.0, 0.0, 5.0]], [[True, True, True, cut]])
        rollout = replace(whole, finish=[*whole.finish[:3], FinishReason.LENGTH]) if there else first(whole, 3)
        changed = {**SETTINGS, "max_grad_norm": 1e9, "mask_truncated": cut}
        learn(learner, rollout, rng=random.Random(0), **changed)
        modules = [policy.decoder, *([learner.critic] if learner.critic is not None else [])]
        gradients.append([p.grad.clone() for module in modules for p in module.parameters() if p.grad is not None])
        assert max(gradient.abs().max() for gradient in gradients[-1]) > 1e-3
    for with_it, without in zip(*gradients, strict=True):
        torch.testing.assert_close(with_it, without, rtol=1e-4, atol=1e-6)


def test_a_group_whose_greedy_answer_could_not_be_judged_is_not_trained_on() -> None:
    gradients = []
    for rewards_PG, greedy in ([[1.0, 0.0], [1.0, 1.0]], [0.5, math.nan]), ([[1.0, 0.0]], [0.5]):
        policy = policy_of(0)
        learner = build_learner(policy, ALGORITHMS["remax"], lr=1e-2)
        changed = {**SETTINGS, "max_grad_norm": 1e9, "greedy_rewards": greedy}
        found = learn(learner, on_policy(policy, rewards_PG), rng=random.Random(0), **changed)
        assert found.credit.advantages[:2] == [0.5, -0.5] and not any(found.credit.advantages[2:])
        gradients.append([p.grad.clone() for p in policy.decoder.parameters() if p.grad is not None])
    for with_it, without in zip(*gradients, strict=True):
        torch.testing.assert_close(with_it, without, rtol=1e-4, atol=1e-6)


def test_steps_are_rewarded_by_the_rule_or_by_the_scorer_and_the_end_by_the_outcome() -> None:
    policy = policy_of(0)
    learner = build_learner(policy, ALGORITHMS["grpo-process"], lr=1e-2)
    said = ["1 + 2 = 3 . so 3", "1 + 2 = 4 .", ""]
    texts = [((1, 2), (*BYTES.encode(text), BYTES.eos_id)) for text in said]
    end = len(said[0])
    assert reward_steps(learner, texts, [1.0, 0.0, 0.0]) == [
        [(10, 1.0), (end, 1.0)], [(10, 0.0), (len(said[1]), 0.0)], [(0, 0.0)],
    ]  # fmt: skip
    learner.scorer = ProcessRewardModel(policy_of(1).decoder)
    with torch.no_grad():
        learner.scorer.score.copy_(torch.linspace(-1, 1, learner.scorer.score.numel()).view(1, -1))
    scores = score_steps(learner.scorer, BYTES, texts)
    found = reward_steps(learner, texts, [1.0, 0.0, 0.5])
    assert found == [[(10, scores[0][0]), (end, 1.0)], [(10, scores[1][0]), (len(said[1]), 0.0)], [(0, 0.5)]]
    learned = learn(learner, on_policy(policy, [[1.0, 0.0, 0.0]]), rng=random.Random(0), **SETTINGS)
    assert all(isinstance(own, list) for own in learned.credit.advantages)


def test_the_steps_of_a_masked_completion_still_count_for_its_group() -> None:
    """Rewards 1 and 0 of two steps are one deviation from their mean; the second was cut."""
    whole = on_policy(policy_of(0), [[1.0, 0.0]])
    rollout = replace(whole, finish=[FinishReason.END, FinishReason.LENGTH])
    ends = [len(completion.token_ids) - 1 for completion in whole.groups[0].completions]
    steps = [[(end, reward)] for end, reward in zip(ends, (1.0, 0.0), strict=True)]
    credit = assign_credit(rollout, ALGORITHMS["grpo-process"], steps=steps, mask_truncated=True)
    assert credit.chosen == [True, False] and credit.advantages[1] == 0.0
    assert credit.advantages[0] == pytest.approx([1.0] * (ends[0] + 1), abs=1e-5)


def first(whole: Rollout, G: int) -> Rollout:
    """Of a rollout of one group, its first completions."""
    (group,) = whole.groups
    return replace(
        whole,
        groups=[replace(group, completions=group.completions[:G])],
        rewards_PG=whole.rewards_PG[:, :G],
        valid_PG=whole.valid_PG[:, :G],
        finish=whole.finish[:G],
        right=whole.right[:G],
    )
