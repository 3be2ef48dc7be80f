"""Reinforcement learning with group-relative advantages: R1-Zero, both RL stages of R1, and every control are this
loop.

One step: choose problems, sample a group for each with the current weights, judge, turn rewards into advantages over
whole groups, split into mini-batches, update. Data flows in one direction and everything random comes from a stream
named by the step, so a stage continues from its state with the same bits.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from aha.config import Amount, Count, Frozen, NotNegative, Rate, Share
from aha.data.curriculum import choose_problems
from aha.data.problems import load_problems
from aha.errors import DataError, InvariantError, SettingError, nearest
from aha.model.decoder import Decoder
from aha.objective.advantages import group_advantages
from aha.objective.algorithms import ALGORITHMS, Algorithm
from aha.objective.weights import token_weights
from aha.records import FinishReason, Group, Problem, Sample, StageResult, Status
from aha.reward.accuracy import judge_accuracy
from aha.reward.response import Response, read_response
from aha.reward.rubric import Reward, Scored, score
from aha.reward.rules import language_share
from aha.rollout.engine import SamplingParams
from aha.rollout.group import sample_groups
from aha.rollout.sync import check_agreement, sync_weights
from aha.stages.context import Context
from aha.stages.models import Policy, build_engine, load_policy, save_policy
from aha.stages.reflection import count_reflections
from aha.stages.rewarding import Weights, build_rewards, check_known_good, is_reasoning, load_preferences
from aha.stages.samples import write_samples
from aha.train.batch import PolicyRow, collate_policy, with_reference
from aha.train.optimizer import build_adamw
from aha.train.schedule import learning_rate
from aha.train.state import TrainState
from aha.train.step import compute_logprobs, policy_step
from aha.util.seeds import python_rng


class Settings(Frozen):
    """``algorithm`` is a row of ``objective/algorithms.py``; ``beta`` and ``minibatches`` replace the row's where
    given.

    ``prompts`` x ``samples`` completions a step. ``general_share`` of the prompts are general ones. Preference rewards
    count after ``preference_start`` of the steps. ``curriculum`` asks easy levels more often at first. Micro-batches
    hold ``token_budget`` tokens.
    """

    algorithm: str = "grpo_r1"
    steps: Count = 80
    prompts: Count = 16
    samples: Annotated[int, Field(ge=2)] = 16
    lr: Rate = 1e-4
    warmup: Amount = 5
    final_ratio: Share = 1.0
    beta: NotNegative | None = None
    minibatches: Count | None = None
    max_grad_norm: Rate = 1.0
    max_new_tokens: Count = 80
    temperature: Rate = 1.0
    weights: Weights = Weights()
    preference_start: Share = 0.75
    general_share: Share = 0.0
    curriculum: bool = False
    token_budget: Count = 4_096
    samples_every: Count = 10


def run(settings: Settings, inputs: Mapping[str, Path], context: Context) -> StageResult:
    """``init`` has the policy; every input named ``problems...`` a set of training problems, each asked equally often;
    ``problems`` also the general prompts; ``helpful`` and ``safe`` the preference models."""
    algorithm = named_algorithm(settings.algorithm)
    policy = load_policy(inputs["init"] / "model")
    sets = [load_problems(inputs[edge] / "train.jsonl") for edge in sorted(inputs) if edge.startswith("problems")]
    general = load_problems(inputs["problems"] / "general_train.jsonl") if settings.general_share else []
    if len(general) < _num_general(settings):
        raise DataError(f"a step asks {_num_general(settings)} general prompts, there are only {len(general)}")
    preferences = load_preferences(inputs, policy.renderer)
    optimizer = build_adamw(policy.decoder, lr=settings.lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    beta = algorithm.beta if settings.beta is None else settings.beta
    reference = copy.deepcopy(policy.decoder).requires_grad_(False) if beta else None
    frozen = {"reference": reference} if reference else {}
    state = TrainState(0, policy.decoder, optimizer, {"updates": 0, "last": {}}, frozen)
    state.resume(context.out / "state")
    context.rewind_metrics(state.step)
    engine = build_engine(policy)
    params = SamplingParams(
        settings.max_new_tokens, temperature=settings.temperature, end_token_ids=policy.tokenizer.end_token_ids
    )
    minibatches = settings.minibatches or algorithm.minibatches
    while state.step < settings.steps:
        step, started = state.step, time.perf_counter()
        progress = step / settings.steps
        asked = _ask(sets, general, settings, progress=progress, seed=context.seed, step=step)
        rewards = build_rewards(
            settings.weights, preferences, preference_start=settings.preference_start, seed=context.seed, step=step
        )
        if step == 0:
            check_known_good(rewards, asked[0], policy.renderer)
        sync_weights(engine, policy.decoder, version=step)
        prompts = [policy.renderer.prompt(p.prompt) for p in asked]
        groups = sample_groups(engine, asked, prompts, settings.samples, params, context.seed, step)
        sampled_at = time.perf_counter()
        rollout = judge_groups(policy, groups, rewards, progress=progress)
        if step == 0:
            _check_lengths(rollout.finish)
        advantages_PG = group_advantages(rollout.rewards_PG, rollout.valid_PG, scale=algorithm.advantage_scale)
        lr = learning_rate(
            step,
            base=settings.lr,
            warmup=settings.warmup,
            total=settings.steps,
            shape="linear",
            final_ratio=settings.final_ratio,
        )
        updates = []
        for chosen in _split(len(rollout.rows), minibatches, python_rng(context.seed, "minibatches", step)):
            updates.append(
                _update(
                    policy.decoder,
                    optimizer,
                    rollout.rows,
                    advantages_PG.flatten().tolist(),
                    chosen,
                    algorithm=algorithm,
                    beta=beta,
                    reference=reference,
                    lr=lr,
                    settings=settings,
                )
            )
            state.extra["updates"] += 1
            if reference and algorithm.reference_refresh and state.extra["updates"] % algorithm.reference_refresh == 0:
                reference.load_state_dict(policy.decoder.state_dict())
        state.step += 1
        row = _metrics(state.step, rollout, advantages_PG, updates)
        check_agreement(row.get("logprob_gap", 0.0), dtype=policy.decoder.head_weight.dtype, step=state.step)
        row["seconds"] = time.perf_counter() - started
        row["tokens_per_second"] = row["tokens"] / (sampled_at - started)
        state.extra["last"] = {key: row[key] for key in ("accuracy", "format", "length", "reward")}
        context.log(row)
        if state.step == 1 or state.step % settings.samples_every == 0 or state.step == settings.steps:
            _keep_samples(context.out, state.step, policy, rollout, advantages_PG)
        if context.save_due():
            state.save(context.out / "state")
        context.progress(state.step, settings.steps, **{key: row[key] for key in ("reward", "accuracy", "length")})
    save_policy(policy, context.out / "model")
    return StageResult({**state.extra["last"], "steps": state.step})


def named_algorithm(name: str) -> Algorithm:
    """A row of the table; ``SettingError`` offers the nearest name."""
    if name not in ALGORITHMS:
        raise SettingError(f"no algorithm {name!r}; {nearest(name, ALGORITHMS)}")
    return ALGORITHMS[name]


def _num_general(settings: Settings) -> int:
    return round(settings.general_share * settings.prompts)


def _ask(
    sets: Sequence[Sequence[Problem]],
    general: Sequence[Problem],
    settings: Settings,
    *,
    progress: float,
    seed: int,
    step: int,
) -> list[Problem]:
    """Equally many of each set (the first take what is left over), then the general ones."""
    rng, num_general = python_rng(seed, "problems", step), _num_general(settings)
    share, left_over = divmod(settings.prompts - num_general, len(sets))
    if left_over and not share:
        raise SettingError(f"prompts={settings.prompts} leaves {left_over} for {len(sets)} sets of problems; raise it")
    asked: list[Problem] = []
    for i, problems in enumerate(sets):
        count = share + (i < left_over)
        asked += choose_problems(problems, count, rng, progress=progress, curriculum=settings.curriculum)
    return [*asked, *rng.sample(general, num_general)]


@dataclass(frozen=True)
class Rollout:
    """A step's groups, flattened: ``rows`` for the trainer, texts and verdicts for the log; P x G rewards and validity.

    ``right`` is the accuracy of reasoning problems, measured whether or not it is rewarded.
    """

    groups: list[Group]
    problems: list[Problem]
    texts: list[str]
    responses: list[Response]
    scored: Scored
    right: list[float | None]
    rows: list[tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]]]
    finish: list[FinishReason]
    rewards_PG: torch.Tensor
    valid_PG: torch.Tensor


def judge_groups(policy: Policy, groups: list[Group], rewards: Sequence[Reward], *, progress: float) -> Rollout:
    """Decode, read and score every completion of every group."""
    flat = [(group, completion) for group in groups for completion in group.completions]
    texts = [policy.tokenizer.decode(completion.token_ids) for _, completion in flat]
    problems = [group.problem for group, _ in flat]
    tails = [policy.renderer.prompt_text(problem.prompt)[-64:] for problem in problems]
    responses = [read_response(text, prompt_tail=tail) for text, tail in zip(texts, tails, strict=True)]
    scored = score(rewards, problems, responses, progress=progress)
    right = scored.parts.get("accuracy") or _right(problems, responses)
    shape = (len(groups), len(groups[0].completions))
    return Rollout(
        groups=groups,
        problems=problems,
        texts=texts,
        responses=responses,
        scored=scored,
        right=right,
        rows=[(group.prompt_ids, c.token_ids, c.logprobs) for group, c in flat],
        finish=[c.finish_reason for _, c in flat],
        rewards_PG=torch.tensor(scored.total, dtype=torch.float64).view(shape),
        valid_PG=torch.tensor(scored.valid).view(shape),
    )


def _right(problems: Sequence[Problem], responses: Sequence[Response]) -> list[float | None]:
    """Accuracy for the log where it is no reward; ``None`` where no checker judges, or it failed."""
    rows = [i for i, problem in enumerate(problems) if is_reasoning(problem)]
    verdicts = judge_accuracy([problems[i] for i in rows], [responses[i] for i in rows])
    right = {i: v.score for i, v in zip(rows, verdicts, strict=True) if v.status is not Status.ERROR}
    return [right.get(i) for i in range(len(problems))]


def _split(count: int, minibatches: int, rng: random.Random) -> list[list[int]]:
    """Rows at random into mini-batches: advantages are already there, so a group may be torn (R1v2 2.1)."""
    order = list(range(count))
    rng.shuffle(order)
    return [order[i::minibatches] for i in range(min(minibatches, count))]


def _check_lengths(finish: Sequence[FinishReason]) -> None:
    truncated = _mean([float(reason is FinishReason.LENGTH) for reason in finish])
    if truncated > 0.5:
        raise InvariantError(
            f"{truncated:.0%} of the first completions were cut at max_new_tokens: their rewards say nothing; raise it"
        )


def _update(
    decoder: Decoder,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]]],
    advantages: Sequence[float],
    chosen: Sequence[int],
    *,
    algorithm: Algorithm,
    beta: float,
    reference: Decoder | None,
    lr: float,
    settings: Settings,
) -> dict[str, float]:
    """One mini-batch. Without a KL term a completion whose advantage is 0 has gradient 0 and is left out, exactly."""
    weights = token_weights([len(rows[i][1]) for i in chosen], algorithm.aggregation).tolist()
    kept = [(i, weight) for i, weight in zip(chosen, weights, strict=True) if beta or advantages[i] != 0.0]
    batches = collate_policy(
        [PolicyRow(rows[i][0], rows[i][1], advantages[i], rows[i][2]) for i, _ in kept],
        weights=[weight for _, weight in kept],
        token_budget=settings.token_budget,
    )
    if reference is not None:
        batches = with_reference(batches, compute_logprobs(reference, batches, temperature=settings.temperature))
    return policy_step(
        decoder,
        optimizer,
        batches,
        algorithm=algorithm,
        num_sequences=len(chosen),
        lr=lr,
        max_grad_norm=settings.max_grad_norm,
        beta=beta,
        temperature=settings.temperature,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _metrics(
    step: int, rollout: Rollout, advantages_PG: torch.Tensor, updates: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """One row of ``metrics.jsonl``. The agreement of sampler and trainer is read off the first update, which is on
    policy; a step without any gradient has measured nothing and says nothing of it."""
    lengths = [len(tokens) for _, tokens, _ in rollout.rows]
    reasoning = [i for i, problem in enumerate(rollout.problems) if is_reasoning(problem)]
    right = {i: score for i in reasoning if (score := rollout.right[i]) is not None}
    spoken = [language_share(rollout.responses[i].think, rollout.problems[i].language) for i in reasoning]
    row: dict[str, float] = {
        "step": step,
        "accuracy": _mean(list(right.values())),
        "reward": _mean(rollout.scored.total),
        "format": _mean([float(r.well_formed) for r in rollout.responses]),
        "language": _mean([share for share in spoken if share is not None]),
        "length": _mean([lengths[i] for i in reasoning]),
        "length_max": max(lengths),
        "truncated": _mean([float(f is FinishReason.LENGTH) for f in rollout.finish]),
        "reflection": _mean([count_reflections(rollout.responses[i].think) for i in reasoning]),
        "groups_kept": _mean((advantages_PG != 0).any(1).float().tolist()),
        "verifier_errors": float(rollout.valid_PG.logical_not().sum()),
        "tokens": float(sum(lengths)),
    }
    for task in sorted({rollout.problems[i].task for i in reasoning}):
        rows = [i for i in reasoning if rollout.problems[i].task == task]
        row[f"accuracy/{task}"] = _mean([right[i] for i in rows if i in right])
        row[f"length/{task}"] = _mean([lengths[i] for i in rows])
    for name, values in rollout.scored.parts.items():
        if given := [v for v in values if v is not None]:  # a preference says nothing before its quarter
            row[f"reward/{name}"] = _mean(given)
    if measured := [update for update in updates if update["tokens"]]:
        row |= {key: measured[0][key] for key in ("mismatch_kl", "logprob_gap", "max_logprob_gap", "entropy")}
        row |= {key: measured[-1][key] for key in ("kl", "ess", "clip_fraction")}
    row["lr"] = updates[-1]["lr"]
    row["loss"], row["grad_norm"] = _mean([u["loss"] for u in updates]), _mean([u["grad_norm"] for u in updates])
    return row


def _keep_samples(out: Path, step: int, policy: Policy, rollout: Rollout, advantages_PG: torch.Tensor) -> None:
    """Write the first two and the last group of the step for people to read."""
    size = advantages_PG.shape[1]
    shown = sorted({0, 1, len(rollout.groups) - 1} & set(range(len(rollout.groups))))
    advantages = advantages_PG.flatten().tolist()
    samples = []
    for index in (group * size + g for group in shown for g in range(min(size, 4))):
        problem, tokens = rollout.problems[index], rollout.rows[index][1]
        samples.append(
            Sample(
                step=step,
                problem_id=problem.id,
                task=problem.task,
                language=problem.language,
                prompt=policy.renderer.prompt_text(problem.prompt),
                completion=rollout.texts[index],
                answer=problem.answer,
                finish_reason=rollout.finish[index].value,
                reward=rollout.scored.total[index],
                rewards={n: s for n, v in rollout.scored.parts.items() if (s := v[index]) is not None},
                tokens=policy.renderer.token_texts(tokens),
                advantages=(advantages[index],) * len(tokens),
            )
        )
    write_samples(out / "samples" / f"step_{step:06d}.parquet", samples)
