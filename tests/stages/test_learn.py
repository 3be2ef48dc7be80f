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
from aha.objective.algorithms import ALGORITHMS, Critic
from aha.records import Completion, FinishReason, Group, Problem, Status, Verdict
from aha.reward.process import score_steps
from aha.reward.response import Response, read_response
from aha.reward.rubric import Scored
from aha.stages import learn as learn_module
from aha.stages.credit import assign_credit
from aha.stages.learn import Learner, build_learner, follow, learn, reward_steps
from aha.stages.models import Policy
from aha.stages.rl_metrics import step_metrics
from aha.stages.rollout import Rollout, judge_groups, roll_out
from aha.testing import byte_tokenizer, few_problems, tiny_policy
from aha.train.batch import PackedBatch, PolicyRow, collate_policy
from aha.train.policy_step import compute_logprobs
from aha.train.value_step import value_step
from aha.util.seeds import python_rng

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
        *((name, True) for name in ("reinforce", "reinforce++", "ppo", "vapo")),  # no group mean
        *((name, False) for name in ("reinforce++", "ppo", "vapo")),
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


def test_the_gradient_of_a_rollout_by_hand() -> None:
    """On policy a ratio is 1: minus the sum of weight * advantage * log-prob over all completions that were sampled, of
    which one has no advantage. Its groups are the first and the third of three."""
    for name, scale in (("dapo", True), ("dr-grpo", False), ("gpg", False), ("dr-grpo", False)):
        policy = policy_of(0)
        nll = 0.5 if name == "dr-grpo" else 0.0
        row = replace(ALGORITHMS[name], minibatches=1, refill=0.0, keep="all", nll=nll)
        learner = build_learner(policy, row, lr=1e-2)
        whole = on_policy(policy, [[1.0, 0.0, 0.5], [0.25, 0.5, 0.0], [0.0, 1.0, 1.0]])
        rollout = replace(whole, kept=[0, 2])
        policy.decoder.zero_grad()
        logps, advantages = [], []
        for p in rollout.kept:
            rewards = whole.rewards_PG[p]
            centred = rewards - rewards.mean()
            advantages += (centred / (rewards.std(correction=0) + 1e-6) if scale else centred).tolist()
            for c in whole.groups[p].completions:
                ids = torch.tensor([[*whole.groups[p].prompt_ids, *c.token_ids]])
                table = policy.decoder.logits(policy.decoder(ids))[0, :-1].log_softmax(-1)
                logps.append(table[-len(c.token_ids) :].gather(1, ids[0, -len(c.token_ids) :, None]).sum())
        lengths = [len(c.token_ids) for p in rollout.kept for c in whole.groups[p].completions]
        weight = 1 / 8 / 6 if name == "dr-grpo" else 1 / sum(lengths)
        weight *= 6 / 5 if name == "gpg" else 1  # one of six has no advantage
        loss = -sum(weight * a * logp for a, logp in zip(advantages, logps, strict=True))
        right = (0, 4, 5)
        loss = loss - nll * sum(logps[i] for i in right) / sum(lengths[i] for i in right)
        loss.backward()  # type: ignore[union-attr]
        expected = [p.grad.clone() for p in policy.decoder.parameters() if p.grad is not None]
        learn(learner, rollout, rng=random.Random(0), **{**SETTINGS, "max_grad_norm": 1e9})
        found = [p.grad for p in policy.decoder.parameters() if p.grad is not None]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_mirror_descent_holds_on_to_completions_without_an_advantage_too() -> None:
    policy = policy_of(0)
    learner = build_learner(policy, replace(ALGORITHMS["kimi"], minibatches=1), lr=1e-2)
    whole = on_policy(policy, [[1.0, 1.0]])
    (group,) = whole.groups
    moved = [replace(c, logprobs=tuple(x - 0.5 for x in c.logprobs)) for c in group.completions]
    rollout = replace(whole, groups=[replace(group, completions=tuple(moved))])
    (update,) = learn(learner, rollout, rng=random.Random(0), **{**SETTINGS, "importance_cap": None}).updates
    # tau / 2 of the squared log-ratio of each sequence, mean over both
    squares = [(0.5 * len(c.token_ids)) ** 2 for c in moved]
    assert update["loss"] == pytest.approx(0.05 * sum(squares) / 2, rel=1e-4)


def test_a_critic_has_a_rate_of_its_own_and_is_not_clipped_while_it_warms_up(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, float | None]] = []

    def spy(*arguments: Any, **named: Any) -> dict[str, float]:
        seen.append((named["lr"], named["clip"]))
        return value_step(*arguments, **named)

    monkeypatch.setattr(learn_module, "value_step", spy)
    policy = policy_of(0)
    learner = build_learner(policy, replace(ALGORITHMS["vapo"], minibatches=1), lr=1e-2)
    rollout = on_policy(policy, [[1.0, 0.0]])
    for warming_up in (True, False):
        learn(learner, rollout, rng=random.Random(0), warming_up=warming_up, **SETTINGS)
    assert seen == [(0.02, None), (0.02, 0.2)]


def test_what_a_critic_learns_has_the_lambda_of_values_and_the_policy_its_own() -> None:
    """Two tokens, a reward of 1 at the end, values of 0.5 and 0.25, lambda 0.5 for the policy and 1 for the value:
    delta is -0.25 and 0.75, the advantages 0.125 and 0.75, the targets the reward."""
    algorithm = replace(
        ALGORITHMS["ppo"], scale="none", beta=0.0, critic=Critic(lam_policy=0.5, lam_value=1.0)
    )
    rollout = on_policy(policy_of(0), [[1.0]])
    (group,) = rollout.groups
    two = replace(group.completions[0], token_ids=(1, 2), logprobs=(-1.0, -1.0))
    rollout = replace(rollout, groups=[replace(group, completions=(two,))])
    credit = assign_credit(rollout, algorithm, values=[torch.tensor([0.5, 0.25])])
    assert credit.advantages == [pytest.approx([0.125, 0.75])]
    assert credit.returns is not None and credit.returns[0].tolist() == pytest.approx([1.0, 1.0])


def test_a_kl_in_the_reward_is_taken_from_it_as_a_sum_over_tokens() -> None:
    rollout = on_policy(policy_of(0), [[1.0, 1.0]])
    first, second = (len(c.token_ids) for c in rollout.groups[0].completions)
    penalties = [torch.full((first,), 0.1), torch.full((second,), 0.3)]
    credit = assign_credit(rollout, ALGORITHMS["rloo"], penalties=penalties)
    gap = 0.3 * second - 0.1 * first
    assert credit.advantages == pytest.approx([gap, -gap], rel=1e-6)


def test_a_completion_that_is_cut_counts_for_its_group_and_gets_no_advantage() -> None:
    rollout = on_policy(policy_of(0), [[1.0, 0.0, 0.5]])
    rollout = replace(rollout, finish=[FinishReason.END, FinishReason.LENGTH, FinishReason.END])
    credit = assign_credit(rollout, ALGORITHMS["dr-grpo"], mask_truncated=True)
    assert credit.advantages == [0.5, 0.0, 0.0] and credit.chosen == [True, False, True]


def test_what_cannot_be_judged_is_not_chosen_where_all_advantages_are_equal() -> None:
    """CPPO keeps two of four; nobody's advantage tells, and of the first two one has no verdict."""
    rollout = on_policy(policy_of(0), [[5.0, 1.0, 1.0, 1.0]], [[False, True, True, True]])
    credit = assign_credit(rollout, replace(ALGORITHMS["cppo"], prune=0.5))
    assert credit.chosen == [False, True, False, False]


def test_of_a_pruned_group_the_most_telling_are_kept_that_are_not_cut() -> None:
    rollout = on_policy(policy_of(0), [[1.0, 1.0, 1.0, 1.0, 0.5, 1.0, 0.0, 0.0]])
    rollout = replace(rollout, finish=[*[FinishReason.END] * 6, *[FinishReason.LENGTH] * 2])
    credit = assign_credit(rollout, replace(ALGORITHMS["cppo"], prune=0.75), mask_truncated=True)
    assert [i for i, chosen in enumerate(credit.chosen) if chosen] == [0, 1] and credit.advantages[0] != 0.0


def test_the_mean_reward_is_of_what_could_be_judged() -> None:
    learner = build_learner(policy_of(0), ALGORITHMS["dapo"], lr=1e-2)
    rollout = on_policy(learner.policy, [[1.0, 0.5, 0.0, 0.0]], [[True, True, False, False]])
    row = step_metrics(1, rollout, learn(learner, rollout, rng=random.Random(0), **SETTINGS), lr=1e-2)
    assert row["reward"] == 0.75 and row["verifier_errors"] == 2


@pytest.mark.parametrize("name", ["ppo", "rloo", "reinforce++", "reinforce++-baseline", "grpo"])
def test_kl_is_the_distance_to_the_reference_wherever_the_row_puts_it(name: str) -> None:
    policy = policy_of(0)
    learner = build_learner(policy, replace(ALGORITHMS[name], minibatches=1), lr=1e-2)
    assert learner.reference is not None
    learner.reference.load_state_dict(policy_of(1).decoder.state_dict())
    rollout = on_policy(policy, [[1.0, 0.5, 0.0, 0.25]])
    completions = rollout.groups[0].completions
    rows = [PolicyRow(rollout.groups[0].prompt_ids, c.token_ids, 0.0, c.logprobs) for c in completions]
    batches = collate_policy(rows, weights=[1.0] * 4, token_budget=512)
    now, then = (torch.cat(compute_logprobs(d, batches)) for d in (policy.decoder, learner.reference))
    (update,) = learn(learner, rollout, rng=random.Random(0), **SETTINGS).updates
    assert update["kl"] == pytest.approx(float(((then - now).exp() - (then - now) - 1).mean()), rel=1e-4)
    assert update["kl"] > 0.01


def test_rewards_of_steps_are_pooled_over_their_own_group_and_without_what_cannot_be_judged() -> None:
    row = replace(ALGORITHMS["grpo-process"], scale="none", beta=0.0)
    rollout = on_policy(policy_of(0), [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]], [[True, True, False], [True, True, True]])
    lengths = [len(c.token_ids) for group in rollout.groups for c in group.completions]
    outcomes = (1.0, 0.0, 50.0, 8.0, 6.0, 4.0)
    credit = assign_credit(rollout, row, steps=[[(n - 1, x)] for n, x in zip(lengths, outcomes, strict=True)])
    expected = [0.5, -0.5, 0.0, 2.0, 0.0, -2.0]  # means of 0.5 and 6
    found = [own if isinstance(own, float) else own[-1] for own in credit.advantages]
    assert found == pytest.approx(expected) and credit.chosen[2] is False


def test_the_kl_in_the_reward_is_reported_a_token_and_without_its_coefficient() -> None:
    policy = policy_of(0)
    learner = build_learner(policy, ALGORITHMS["rloo"], lr=1e-2)
    whole = on_policy(policy, [[1.0, 0.0]])
    (group,) = whole.groups
    said = [replace(c, logprobs=tuple(x - 0.5 for x in c.logprobs)) for c in group.completions]
    rollout = replace(whole, groups=[replace(group, completions=tuple(said))])
    found = learn(learner, rollout, rng=random.Random(0), **SETTINGS)
    assert found.critic["reward_kl"] == pytest.approx(-0.5, rel=1e-4)


def test_drafting_is_learned_from_what_was_said_and_not_from_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    weights: list[float] = []

    def spy(decoder: object, optimizer: object, batches: Sequence[PackedBatch], **_: object) -> dict[str, float]:
        weights.extend(float(batch.weights_BT.sum()) for batch in batches)
        return {"mtp_loss": 0.25}

    monkeypatch.setattr(learn_module, "mtp_step", spy)
    policy = policy_of(0)
    learner = build_learner(policy, ALGORITHMS["reinforce"], lr=1e-2)
    learner.mtp_optimizer = learner.optimizer
    rollout = on_policy(policy, [[1.0, 0.0], [0.0, 1.0]])
    assert follow(learner, rollout, lr=1e-2, token_budget=20, max_grad_norm=1.0) == 0.25
    assert sum(weights) == sum(map(len, rollout.token_ids))


@pytest.mark.parametrize("refreshed", [True, False])
def test_a_reference_becomes_the_policy_when_it_is_refreshed(refreshed: bool) -> None:
    policy = policy_of(0)
    learner = build_learner(policy, replace(ALGORITHMS["grpo"], minibatches=1), lr=1e-2)
    learn(learner, on_policy(policy, [[1.0, 0.0]]), rng=random.Random(0), refresh=lambda: refreshed, **SETTINGS)
    assert learner.reference is not None
    pairs = zip(learner.reference.parameters(), policy.decoder.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs) is refreshed


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


def rolled_out(*rounds: Rollout, rng: random.Random | None = None, **limits: float) -> tuple[Rollout, list[int]]:
    """``roll_out`` of four prompts that is answered by ``rounds``, and how many problems each asked."""
    asked: list[int] = []

    def ask(count: int, number: int) -> list[Problem]:
        assert number == len(asked)
        asked.append(count)
        return few_problems()[:count]

    found = roll_out(
        ask, lambda problems: rounds[len(asked) - 1], prompts=4, algorithm=ALGORITHMS["dapo"],
        max_rounds=int(limits.get("max_rounds", 3)), max_tokens=limits.get("max_tokens", math.inf), rng=rng,
    )  # fmt: skip
    return found, asked


def test_as_many_are_asked_again_as_the_useful_share_lets_expect() -> None:
    policy = policy_of(0)
    half = on_policy(policy, [[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    found, asked = rolled_out(half, on_policy(policy, [[1.0, 0.0]] * 4))
    assert asked == [4, 4] and found.rounds == 2  # two of four are missing, and one of two is useful
    assert found.kept == [1, 3, 4, 5]  # six have a signal
    none = on_policy(policy, [[1.0, 1.0], [0.0, 0.0]])
    found, asked = rolled_out(none, max_rounds=1)
    assert asked == [4] and found.kept == [0, 1]  # a step without a gradient
    each = sum(map(len, half.token_ids)) / 4
    for most, expected in ((8 * each, [4, 4]), (8 * each - 0.5, [4])):
        assert rolled_out(half, on_policy(policy, [[1.0, 0.0]] * 4), max_tokens=most)[1] == expected


def test_what_is_too_much_of_the_last_round_is_drawn() -> None:
    """Two of its four are kept, any of them equally often, in order; what earlier rounds found stays."""
    policy = policy_of(0)
    half, more = on_policy(policy, [[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]), [[1.0, 0.0]] * 4
    later = on_policy(policy, more)
    kept = [rolled_out(half, later, rng=python_rng(0, "surplus", step))[0].kept for step in range(200)]
    assert all(found[:2] == [1, 3] and len(found) == 4 and found == sorted(set(found)) for found in kept)
    assert all(70 < sum(p in found for found in kept) < 130 for p in (4, 5, 6, 7))
    enough = on_policy(policy, [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    assert rolled_out(half, enough, rng=python_rng(0, "surplus", 0))[0].kept == [1, 3, 4, 6], "nothing is too much"


def test_a_reward_that_only_one_round_has_is_unknown_in_the_other() -> None:
    policy = policy_of(0)
    first, second = on_policy(policy, [[1.0, 0.0]] * 2), on_policy(policy, [[1.0, 0.0]])
    first = replace(first, scored=replace(first.scored, parts={"a": [1.0] * 4, "b": [2.0] * 4}))
    second = replace(second, scored=replace(second.scored, parts={"b": [3.0] * 2, "c": [4.0] * 2}))
    parts = rolled_out(first, second, max_rounds=2)[0].scored.parts
    assert parts["a"] == [1.0] * 4 + [None] * 2 and parts["b"] == [2.0] * 4 + [3.0] * 2
    assert parts["c"] == [None] * 4 + [4.0] * 2


def test_accuracy_that_could_not_be_judged_is_unknown_and_not_wrong() -> None:
    def judge(problems: Sequence[Problem], responses: Sequence[Response]) -> list[Verdict]:
        return [Verdict("accuracy", Status.ERROR, 0.0, "broken"), Verdict("accuracy", Status.WRONG, 0.0)]

    policy = policy_of(0)
    group = on_policy(policy, [[0.0, 0.0]]).groups[0]
    assert judge_groups(policy, [group], [], progress=0.0, accuracy=judge).right == [None, 0.0]
