"""What is learned from one rollout: log-probs of whoever is asked, advantages, mini-batches, updates."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from aha.model.decoder import Decoder
from aha.model.heads import ProcessRewardModel, ValueModel
from aha.model.mapped import MappedDecoder
from aha.objective.algorithms import Algorithm
from aha.objective.value import explained_variance
from aha.objective.weights import token_weights
from aha.reward.process import Ids, score_steps
from aha.reward.steps import step_ends, step_rewards
from aha.stages.credit import Credit, Steps, assign_credit
from aha.stages.models import Policy
from aha.stages.rollout import Rollout
from aha.train.balance import DEEPSEEK_V3, Balance
from aha.train.batch import PolicyBatch, PolicyRow, collate_packed, collate_policy, with_old, with_reference
from aha.train.halves import narrow
from aha.train.nll_step import mtp_step
from aha.train.optimizer import Moments, build_adamw
from aha.train.policy_step import compute_logprobs, policy_step
from aha.train.value_step import compute_values, value_step


@dataclass
class Learner:
    """What the updates of an RL stage change and read.

    ``scorer`` gives the rewards of steps, else a rule does.
    """

    policy: Policy
    optimizer: torch.optim.Optimizer
    algorithm: Algorithm
    balance: Balance = DEEPSEEK_V3
    reference: Decoder | None = None
    release_reference: Callable[[], None] = lambda: None
    critic: ValueModel | None = None
    critic_optimizer: torch.optim.Optimizer | None = None
    mtp_optimizer: torch.optim.Optimizer | None = None
    scorer: ProcessRewardModel | None = None

    def free_gradients(self) -> None:
        """Gradients have done their work, and who samples next has the use of their memory."""
        for optimizer in (self.optimizer, self.critic_optimizer, self.mtp_optimizer):
            if optimizer is not None:
                optimizer.zero_grad(set_to_none=True)


@dataclass(frozen=True)
class Learned:
    """The advantages, the metrics of each update of the policy, and those of the critic's."""

    credit: Credit
    updates: list[dict[str, float]]
    critic: dict[str, float] = field(default_factory=dict)


def build_learner(
    policy: Policy,
    algorithm: Algorithm,
    *,
    lr: float,
    balance: Balance = DEEPSEEK_V3,
    mtp_lr: float = 0.0,
    bf16: bool = False,
    moments: Moments = "float32",
    folder: Path | None = None,
) -> Learner:
    """A reference where the row has a KL, a critic (a copy of the policy with a new head) where it has one, and with
    ``mtp_lr`` an optimiser for the modules of multi-token prediction, which the policy's own never holds.

    With ``bf16`` the decoder of ``policy`` becomes BF16, and the optimiser has the other half of each weight.
    With a ``folder`` a reference on a CPU lies in a file there and is in memory only while it computes."""
    build_optimizer = partial(build_adamw, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, moments=moments)
    ahead = policy.decoder.modules_ahead().requires_grad_(False)
    critic = None if algorithm.critic is None else ValueModel(copy.deepcopy(policy.decoder))
    lower = narrow(policy.decoder) if bf16 else None
    learner = Learner(policy, build_optimizer(policy.decoder, lr=lr, lower=lower), algorithm, balance)
    if mtp_lr:
        learner.mtp_optimizer = build_optimizer(ahead.requires_grad_(True), lr=mtp_lr)
    if algorithm.beta and folder is not None and policy.decoder.head_weight.device.type == "cpu":
        mapped = MappedDecoder(policy.decoder, folder)
        learner.reference, learner.release_reference = mapped.decoder, mapped.release
    elif algorithm.beta:
        learner.reference = copy.deepcopy(policy.decoder).requires_grad_(False)
    if critic is not None and algorithm.critic is not None:
        learner.critic = critic
        learner.critic_optimizer = build_optimizer(critic, lr=lr * algorithm.critic.lr_ratio)
    return learner


def reward_steps(learner: Learner, texts: Sequence[tuple[Ids, Ids]], outcomes: Sequence[float]) -> list[Steps]:
    """The rewards of the steps of each (prompt, completion): the scorer's, or by the rule of reward/steps.py; the last
    step has that of the outcome."""
    pieces = [learner.policy.tokenizer.pieces(ids) for _, ids in texts]
    if learner.scorer is None:
        return [step_rewards(own, outcome) for own, outcome in zip(pieces, outcomes, strict=True)]
    scores = score_steps(learner.scorer, learner.policy.tokenizer, texts)
    return [
        list(zip(step_ends(own), (*scored[:-1], outcome), strict=True))
        for own, scored, outcome in zip(pieces, scores, outcomes, strict=True)
    ]


def learn(
    learner: Learner,
    rollout: Rollout,
    *,
    rng: random.Random,
    lr: float,
    max_grad_norm: float,
    temperature: float,
    token_budget: int,
    max_new_tokens: int,
    importance_cap: float | None,
    mask_truncated: bool = False,
    greedy_rewards: Sequence[float] | None = None,
    warming_up: bool = False,
    skip_above: float = float("inf"),
    refresh: Callable[[], bool] = lambda: False,
) -> Learned:
    """The updates of one rollout. ``refresh`` is called after each and says whether the reference becomes the policy.

    ``warming_up`` trains the critic alone. The reference's and the old log-probs are computed once, before the first
    update; the first update's own are its old ones.
    """
    algorithm, decoder = learner.algorithm, learner.policy.decoder
    completions = [c for p in rollout.kept for c in rollout.groups[p].completions]
    prompts = [rollout.groups[p].prompt_ids for p in rollout.kept for _ in rollout.groups[p].completions]
    bare = [PolicyRow(q, c.token_ids, 0.0, c.logprobs) for q, c in zip(prompts, completions, strict=True)]

    def of_rows(compute: Callable[[list[PolicyBatch]], list[Tensor]], wanted: Sequence[int]) -> dict[int, Tensor]:
        """``compute`` of the completions ``wanted``, one tensor over the tokens of each."""
        batches = collate_policy([bare[i] for i in wanted], weights=[1.0] * len(wanted), token_budget=token_budget)
        parts = [batch.by_row(part.cpu()) for batch, part in zip(batches, compute(batches), strict=True)]
        return {wanted[row]: tensor for part in parts for row, tensor in part.items()}

    def of_reference(batches: list[PolicyBatch]) -> list[Tensor]:
        assert learner.reference is not None
        found = compute_logprobs(learner.reference, batches, temperature=temperature)
        learner.release_reference()
        return found

    everything = range(len(bare))
    reference = of_rows(of_reference, everything) if learner.reference is not None else {}
    penalties = None
    if algorithm.beta and algorithm.kl_in == "reward":
        said = [torch.tensor(c.logprobs) for c in completions]
        penalties = [algorithm.beta * algorithm.kl(said[i], reference[i]) for i in everything]
    values = None
    if learner.critic is not None:
        critic = learner.critic
        known = of_rows(lambda batches: compute_values(critic, batches), everything)
        values = [known[i] for i in everything]
    steps: list[Steps] = []
    if algorithm.process:
        texts = [(tuple(q), c.token_ids) for q, c in zip(prompts, completions, strict=True)]
        steps = reward_steps(learner, texts, rollout.rewards_PG[rollout.kept].flatten().tolist())
    credit = assign_credit(
        rollout,
        algorithm,
        steps=steps,
        penalties=penalties,
        values=values,
        greedy_rewards=greedy_rewards,
        mask_truncated=mask_truncated,
    )
    rows = [row._replace(advantage=advantage) for row, advantage in zip(bare, credit.advantages, strict=True)]
    trained = [i for i in everything if credit.chosen[i]]
    in_loss = bool(algorithm.beta) and algorithm.kl_in == "loss"
    if algorithm.nll:
        right = {i for i in trained if rollout.right[credit.places[i]] == 1.0}
        rows = [row._replace(nll=float(i in right)) for i, row in enumerate(rows)]
    telling = {i for i in trained if in_loss or algorithm.mirror or rows[i].matters}
    parts = split(trained, algorithm.minibatches, rng)
    first = parts[0] if parts else []
    old: dict[int, Tensor] = {}
    if importance_cap is not None and not warming_up and (moved := sorted(telling.difference(first))):
        old = of_rows(lambda batches: compute_logprobs(decoder, batches, temperature=temperature), moved)
    updates, critic_metrics = [], {}
    for chosen in parts:
        if learner.critic is not None and learner.critic_optimizer is not None and algorithm.critic is not None:
            assert credit.returns is not None and values is not None
            batches = collate_policy([bare[i] for i in chosen], weights=[1.0] * len(chosen), token_budget=token_budget)
            critic_metrics = value_step(
                learner.critic,
                learner.critic_optimizer,
                batches,
                [torch.cat([credit.returns[chosen[row]] for row in batch.rows]) for batch in batches],
                [torch.cat([values[chosen[row]] for row in batch.rows]) for batch in batches],
                clip=None if warming_up else algorithm.critic.clip,
                lr=lr * algorithm.critic.lr_ratio,
                max_grad_norm=max_grad_norm,
                balance=learner.balance,
            )
        if warming_up:
            continue
        lengths = [len(rows[i].completion_ids) for i in chosen]
        weights = token_weights(lengths, algorithm.aggregation, constant=max_new_tokens)
        imitated = sum(len(rows[i].completion_ids) for i in chosen if rows[i].nll)
        nll = algorithm.nll * len(chosen) / imitated if imitated else 0.0
        kept = [(i, weight) for i, weight in zip(chosen, weights.tolist(), strict=True) if i in telling]
        batches = collate_policy(
            [rows[i]._replace(nll=nll * rows[i].nll) for i, _ in kept],
            weights=[weight * credit.scale for _, weight in kept],
            token_budget=token_budget,
        )
        places = [i for i, _ in kept]
        if old and chosen is not first:
            batches = with_old(batches, [torch.cat([old[places[row]] for row in batch.rows]) for batch in batches])
        if reference:
            found = [torch.cat([reference[places[row]] for row in batch.rows]) for batch in batches]
            batches = with_reference(batches, found)
        updates.append(
            policy_step(
                decoder,
                learner.optimizer,
                batches,
                algorithm=algorithm,
                num_sequences=len(chosen),
                lr=lr,
                max_grad_norm=max_grad_norm,
                temperature=temperature,
                importance_cap=importance_cap,
                skip_above=skip_above,
                balance=learner.balance,
            )
        )
        if refresh() and learner.reference is not None:
            learner.reference.load_state_dict(decoder.state_dict())
            learner.release_reference()
    if trained and values is not None and credit.returns is not None:
        before, targets = torch.cat([values[i] for i in trained]), torch.cat([credit.returns[i] for i in trained])
        critic_metrics["explained_variance"] = explained_variance(before.double(), targets)
    if penalties is not None:
        critic_metrics["reward_kl"] = float(torch.cat(penalties).mean() / algorithm.beta)
    return Learned(credit, updates, critic_metrics)


def follow(learner: Learner, rollout: Rollout, *, lr: float, token_budget: int, max_grad_norm: float) -> float:
    """One update of the modules of multi-token prediction on all that was sampled, so that they draft what the policy
    says now; the policy itself does not change. Returns their loss."""
    assert learner.mtp_optimizer is not None
    texts = [(group.prompt_ids, c.token_ids) for group in rollout.groups for c in group.completions]
    documents = [([*prompt, *said], [0.0] * len(prompt) + [1.0] * len(said)) for prompt, said in texts]
    batches = collate_packed(documents, width=max(token_budget, *(len(ids) - 1 for ids, _ in documents)))
    metrics = mtp_step(
        learner.policy.decoder,
        learner.mtp_optimizer,
        batches,
        lr=lr,
        max_grad_norm=max_grad_norm,
        balance=learner.balance,
    )
    return metrics["mtp_loss"]


def split(rows: Sequence[int], minibatches: int, rng: random.Random) -> list[list[int]]:
    """Rows at random into mini-batches: advantages are already there, so a group may be torn (R1v2 2.1)."""
    order = list(rows)
    rng.shuffle(order)
    return [order[i::minibatches] for i in range(min(minibatches, len(order)))]
