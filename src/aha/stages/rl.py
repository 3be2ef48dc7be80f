"""Reinforcement learning: R1-Zero, both RL stages of R1, and every control are this loop.

One step: choose problems, sample a group for each, judge, turn rewards into advantages over whole groups, split into
mini-batches, update. Which algorithm it is, is a row of the table: the loop asks what the row needs (a reference, a
critic, a greedy answer) and has no branch for a name. Data flows in one direction and everything random comes from a
stream named by the step, so a stage continues from its state with the same bits.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from pydantic import model_validator

from aha.config import Amount, Count, Frozen, NotNegative, Rate, Share
from aha.data.cap import cap_at
from aha.data.pool import Choice
from aha.data.problems import check_keys, load_problems
from aha.errors import AhaError, SettingError, nearest
from aha.objective.algorithms import ALGORITHMS, Algorithm
from aha.records import Completion, Group, Problem, StageResult
from aha.reward.accuracy import BATCHES
from aha.reward.early import EarlyVerdicts
from aha.reward.rubric import Reward
from aha.rollout.engine import SamplingParams
from aha.rollout.group import sample_groups
from aha.rollout.native.engine import NativeEngine, sampled_itemsize
from aha.rollout.native.graphs import is_captured
from aha.rollout.native.memory import estimate_rollout
from aha.rollout.partial import begin_group, from_json, is_finished, sample_piece, to_json
from aha.rollout.sync import check_agreement, sync_weights
from aha.stages.asking import Asking
from aha.stages.beside import Beside
from aha.stages.context import Context
from aha.stages.learn import build_learner, follow, learn
from aha.stages.memory import estimate_rl, fit_memory, longest_prompt, memory_metrics
from aha.stages.models import Policy, build_engine, cache_bytes, load_policy, load_step_model, save_policy
from aha.stages.rewarding import Length, Weights, build_rewards, check_known_good, load_preferences
from aha.stages.rl_metrics import keep_samples, step_metrics
from aha.stages.rollout import Rollout, judge_groups, read_completions, roll_out
from aha.stages.watch import Watch
from aha.train.balance import Balance
from aha.train.guards import GuardSettings
from aha.train.halves import widen
from aha.train.memory import of_completions
from aha.train.optimizer import Moments
from aha.train.schedule import learning_rate
from aha.train.state import TrainState
from aha.util.seeds import python_rng

_SAMPLERS = {None: None, "bf16": torch.bfloat16, "int8": torch.int8}


class Settings(Frozen):
    """``algorithm`` is a row of ``objective/algorithms.py``; ``beta``, ``minibatches`` and ``critic_warmup`` replace
    the row's where given.

    ``prompts`` x ``samples`` completions a step. ``general_share`` of the prompts are general ones, from
    ``general_start`` of the steps on (R1 asks them in the last 400 of 1,700). Preference rewards count after
    ``preference_start`` of the steps. ``choice`` says which problems are asked, and up to ``replay`` of them are hard
    ones that went wrong before. ``length_stages`` are (first step, ``max_new_tokens`` from there). Micro-batches hold
    ``token_budget`` tokens. ``balance`` keeps the load of experts even. ``importance_cap`` is the largest weight of a
    token that corrects for the sampler's distance from the trainer (none: ratios are to the sampler). With
    ``staleness`` a step is sampled and judged while the one before it is learned, by weights that are up to so many
    updates old; that takes another core, and memory for both at once. With ``piece_tokens`` a step samples no more than
    that of a completion: a group with a longer one goes on in the next step, which asks for that many new groups less;
    a step in which no group has finished samples one more piece of all. A row that asks again where rewards are equal
    does so in ``refill_rounds`` rounds at most, with ``piece_tokens`` in one, and not after ``token_limit`` tokens of a
    step. With ``mask_truncated`` completions that were cut are not trained on. A copy of the weights that ``guards`` go
    back to is kept every ``rollback_every`` steps without a finding; then the rate is halved. ``speculate`` tokens a
    step of the sampler are drafted by modules of multi-token prediction, which the policy's updates leave as they are:
    as the policy moves on fewer drafts are kept, and what is sampled stays exact. With ``mtp_lr`` they learn from each
    step's samples, without a gradient to the policy.

    With ``precision`` bf16 the policy, its reference and the sampler compute in BF16 (attention and norms with float32
    sums inside); weights stay float32, as the BF16 parameter and a lower half (train/halves.py), sums of gradients too,
    and the optimiser's ``moments`` unless they are bf16, as DeepSeek-V3 keeps them. What sampler and trainer then
    differ by, and ``importance_cap`` corrects, is logged. With ``sampler`` only the sampler computes so: its weights
    are bf16 or int8 copies of the policy's (int8 on a CPU, without latent attention and experts). Where a step would
    not fit into memory, as few layers as needed are computed again for their gradients.
    """

    algorithm: str = "grpo-r1"
    steps: Count = 80
    prompts: Count = 16
    samples: Count = 16
    lr: Rate = 1e-4
    warmup: Amount = 5
    final_ratio: Share = 1.0
    beta: NotNegative | None = None
    minibatches: Count | None = None
    critic_warmup: Amount | None = None
    max_grad_norm: Rate = 1.0
    max_new_tokens: Count = 80
    temperature: Rate = 1.0
    top_p: float = 1.0
    top_k: int = 0
    length_stages: tuple[tuple[int, int], ...] = ()
    weights: Weights = Weights()
    length: Length = Length()
    preference_start: Share = 0.75
    general_share: Share = 0.0
    general_start: Share = 0.0
    choice: Choice = Choice()
    replay: Share = 0.0
    importance_cap: Rate | None = 2.0
    staleness: Amount = 0
    piece_tokens: Count | None = None
    refill_rounds: Count = 4
    token_limit: Count | None = None
    mask_truncated: bool = False
    balance: Balance = Balance()
    guards: GuardSettings = GuardSettings()
    rollback_every: Amount = 20
    token_budget: Count = 4_096
    samples_every: Count = 10
    speculate: Amount = 0
    mtp_lr: NotNegative = 0.0
    precision: Literal["float32", "bf16"] = "float32"
    moments: Moments = "float32"
    sampler: Literal["bf16", "int8"] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        row = resolve_algorithm(self)
        if self.length_stages:
            cap_at(0, self.length_stages)
        if self.piece_tokens and self.staleness:
            raise ValueError(
                f"piece_tokens={self.piece_tokens} with staleness={self.staleness}: pieces are of older weights "
                "already; set one of them to 0"
            )
        if self.piece_tokens and row.refill and self.refill_rounds > 1:
            raise ValueError(
                f"piece_tokens={self.piece_tokens} with algorithm {row.name!r} and refill_rounds={self.refill_rounds}: "
                "every round would sample one more piece of all that is under way; leave out piece_tokens, or set "
                "refill_rounds to 1"
            )
        if self.precision == "bf16" and self.mtp_lr:
            raise ValueError("precision bf16 with mtp_lr: modules of multi-token prediction learn in float32 alone")
        if self.sampler and self.importance_cap is None:
            raise ValueError(
                f"sampler {self.sampler} without importance_cap: samples are not quite the policy's, and nothing would "
                "correct it; leave the cap at 2"
            )
        if self.top_p != 1.0 or self.top_k != 0:
            raise ValueError(
                f"top_p={self.top_p}, top_k={self.top_k}: a policy gradient needs each token's probability under the "
                "distribution it was drawn from, and the trainer cannot know which tokens were cut off; leave them at "
                "1 and 0, and make samples less wild with temperature"
            )
        return self


@dataclass(frozen=True)
class _Sampled:
    """A step's rollout, the greedy answers' rewards of ``_roll_out``, tokens and seconds of both, and the share of
    drafts that were kept."""

    rollout: Rollout
    greedy: list[float] | None
    tokens: int
    seconds: float
    acceptance: float | None


def run(settings: Settings, inputs: Mapping[str, Path], context: Context) -> StageResult:
    """``init`` has the policy; every input named ``problems...`` a set of training problems, each asked equally often;
    ``problems`` also the general prompts; ``helpful`` and ``safe`` the preference models; ``scorer`` the process reward
    model that an algorithm of steps is rewarded by (without it a rule does)."""
    algorithm = resolve_algorithm(settings)
    policy = replace(load_policy(inputs["init"] / "model"), sampler=_SAMPLERS[settings.sampler])
    by_edge = {e: load_problems(inputs[e] / "train.jsonl") for e in sorted(inputs) if e.startswith("problems")}
    general = load_problems(inputs["problems"] / "general_train.jsonl") if settings.general_share else []
    check_keys(by_edge | {"general_train.jsonl": general})
    sets = list(by_edge.values())
    asking = Asking(
        sets,
        general,
        choice=settings.choice,
        replay=settings.replay,
        prompts=settings.prompts,
        steps=settings.steps,
        general_share=settings.general_share,
        general_start=settings.general_start,
    )
    preferences = load_preferences(inputs, policy.renderer)
    if settings.mtp_lr and not policy.config.num_nextn_predict_layers:
        raise SettingError(f"mtp_lr={settings.mtp_lr}: the policy has no modules of multi-token prediction; leave it 0")
    if "scorer" in inputs and not algorithm.process:
        raise SettingError(f"algorithm {algorithm.name!r} rewards outcomes and reads no scorer: take grpo-process")
    scorer = load_step_model(inputs["scorer"], policy) if "scorer" in inputs else None
    longest = longest_prompt(policy, [problem for own in (*sets, general) for problem in own])
    beside = sum(parameter.nbytes for parameter in scorer.parameters()) if scorer is not None else 0
    need, recomputed = fit_memory(
        lambda layers: beside + _estimate_memory(settings, algorithm, policy, longest, layers),
        policy,
        lower="token_budget, max_new_tokens, prompts or samples",
    )
    bf16 = settings.precision == "bf16"
    learner = build_learner(
        policy,
        algorithm,
        lr=settings.lr,
        balance=settings.balance,
        mtp_lr=settings.mtp_lr,
        bf16=bf16,
        moments=settings.moments,
        folder=context.out,
    )
    learner.scorer = scorer
    # The sampler's weights: a step that was stopped while the next was being sampled has that sampled again.
    behaviour = copy.deepcopy(policy.decoder).requires_grad_(False) if settings.staleness else None
    frozen = {"reference": learner.reference, "behaviour": behaviour}
    also = {
        "critic": (learner.critic, learner.critic_optimizer),
        "mtp": (policy.decoder.modules_ahead(), learner.mtp_optimizer),
    }
    state = TrainState(
        0,
        policy.decoder,
        learner.optimizer,
        {"updates": 0, "last": {}, "sampler_version": 0},
        {name: module for name, module in frozen.items() if module is not None},
        {name: (module, opt) for name, (module, opt) in also.items() if module is not None and opt is not None},
    )
    under_way: list[Group] = []
    state.resume(context.out / "state")
    if "sampler_version" not in state.extra:  # a state of an earlier version, whose sampler was behind otherwise
        state.extra["sampler_version"] = state.step
        if behaviour is not None:
            behaviour.load_state_dict(policy.decoder.state_dict())
    context.rewind_metrics(state.step)
    if "pools" in state.extra:
        asking.load(state.extra)
        under_way = from_json(state.extra["under_way"], {p.key: p for own in (*sets, general) for p in own})
    watch = Watch(settings.guards, context, state, every=settings.rollback_every)
    engine = build_engine(policy, speculate=settings.speculate)
    early = EarlyVerdicts()

    def refresh() -> bool:
        state.extra["updates"] += 1
        return bool(algorithm.reference_refresh) and state.extra["updates"] % algorithm.reference_refresh == 0

    def sample(step: int) -> _Sampled:
        """By the weights that the engine has."""
        started, drawn = time.perf_counter(), engine.sampled_tokens
        cap = _cap(settings, step)
        rewards = build_rewards(
            settings.weights,
            preferences,
            preference_start=settings.preference_start,
            seed=context.seed,
            step=step,
            length_shape=settings.length,
            max_new_tokens=cap,
            accuracy=early.judge,
        )
        with _named(step + 1):
            rollout, greedy = _roll_out(
                policy,
                engine,
                asking,
                rewards,
                early,
                algorithm,
                settings,
                under_way,
                cap=cap,
                seed=context.seed,
                step=step,
            )
        early.forget()
        acceptance = None if engine.speculation is None else engine.speculation.acceptance
        return _Sampled(rollout, greedy, engine.sampled_tokens - drawn, time.perf_counter() - started, acceptance)

    meanwhile = Beside(policy.decoder.head_weight.device)
    following: Future[_Sampled] | None = None
    while state.step < settings.steps:
        step, started = state.step, time.perf_counter()
        waiting = _tokens(under_way)
        if following is not None:
            sampled, following = following.result(), None
        else:  # in step with the policy; or the first, a continued one, or one behind a rollback
            if behaviour is None:
                state.extra["sampler_version"] = step
            sync_weights(engine, behaviour or policy.decoder, version=state.extra["sampler_version"])
            sampled = sample(step)
        rollout = sampled.rollout
        asking.record(rollout)
        told = copy.deepcopy(asking.tally)  # the next step may be asking before this one is learned
        if behaviour is None:
            engine.release()
        elif step + 1 < settings.steps:
            if step % settings.staleness == 0:
                behaviour.load_state_dict(policy.decoder.state_dict())
                state.extra["sampler_version"] = step
                sync_weights(engine, policy.decoder, version=step)
            following = meanwhile.begin(partial(sample, step + 1))
        lr = watch.lr_factor * learning_rate(
            step,
            base=settings.lr,
            warmup=settings.warmup,
            total=settings.steps,
            shape="linear",
            final_ratio=settings.final_ratio,
        )
        with _named(step + 1):
            learned = learn(
                learner,
                rollout,
                rng=python_rng(context.seed, "minibatches", step),
                lr=lr,
                max_grad_norm=settings.max_grad_norm,
                temperature=settings.temperature,
                token_budget=settings.token_budget,
                max_new_tokens=_cap(settings, step),
                importance_cap=settings.importance_cap,
                mask_truncated=settings.mask_truncated,
                greedy_rewards=sampled.greedy,
                warming_up=algorithm.critic is not None and step < algorithm.critic.warmup,
                skip_above=watch.norm_limit,
                refresh=refresh,
            )
        ahead = {}
        if learner.mtp_optimizer is not None:
            ahead["mtp_loss"] = follow(
                learner,
                rollout,
                lr=watch.lr_factor * settings.mtp_lr,
                token_budget=settings.token_budget,
                max_grad_norm=settings.max_grad_norm,
            )
        learner.free_gradients()
        if following is not None:
            wait([following])
        state.step += 1
        row = step_metrics(state.step, rollout, learned, lr=lr)
        row["staleness"] = float(step - min(c.policy_version for g in rollout.groups for c in g.completions))
        if not row["staleness"]:
            check_agreement(row.get("logprob_gap", 0.0), dtype=engine.dtype, step=state.step)
        row |= ahead
        if settings.piece_tokens:
            row["under_way"] = float(len(under_way))
            row["tokens"] += _tokens(under_way) - waiting  # what ends now was begun earlier, what is begun ends later
        if sampled.acceptance is not None:
            row["draft_acceptance"] = sampled.acceptance
        row["seconds"] = time.perf_counter() - started
        row["tokens_per_second"] = sampled.tokens / sampled.seconds
        row |= memory_metrics(state.step, need, policy.decoder.head_weight.device, recomputed=recomputed)
        state.extra["last"] = {key: row[key] for key in ("accuracy", "format", "length", "reward")}
        findings = watch.log(row)
        if state.step == 1 or state.step % settings.samples_every == 0 or state.step == settings.steps:
            keep_samples(context.out, state.step, policy, rollout, learned.credit)
        rollbacks = state.extra["rollbacks"]
        watch.act(findings)
        if behaviour is not None and state.extra["rollbacks"] > rollbacks:
            behaviour.load_state_dict(policy.decoder.state_dict())
            state.extra["sampler_version"] = state.step
            asking.tally, following = told, None  # what was sampled meanwhile is of the weights that were left
        if context.save_due():
            state.extra |= asking.to_json(told) | {"under_way": to_json(under_way)}
            state.save(context.out / "state")
            learner.release_reference()
            watch.forget()
        context.progress(state.step, settings.steps, **{key: row[key] for key in ("reward", "accuracy", "length")})
    widen(policy.decoder, learner.optimizer)
    save_policy(policy, context.out / "model")
    watch.close()
    return StageResult({**state.extra["last"], "steps": state.step})


def _cap(settings: Settings, step: int) -> int:
    """``max_new_tokens`` of a step."""
    return cap_at(step, settings.length_stages) if settings.length_stages else settings.max_new_tokens


def resolve_algorithm(settings: Settings) -> Algorithm:
    """The row of the table that the settings name, with what they replace; ``SettingError`` offers the nearest name,
    and says what does not go together."""
    if settings.algorithm not in ALGORITHMS:
        raise SettingError(f"no algorithm {settings.algorithm!r}; {nearest(settings.algorithm, ALGORITHMS)}")
    row = ALGORITHMS[settings.algorithm]
    if settings.beta is not None:
        row = replace(row, beta=settings.beta)
    if settings.minibatches is not None:
        row = replace(row, minibatches=settings.minibatches)
    if settings.critic_warmup is not None:
        if row.critic is None:
            raise SettingError(f"critic_warmup={settings.critic_warmup}: algorithm {row.name!r} has no critic")
        row = replace(row, critic=replace(row.critic, warmup=settings.critic_warmup))
    if settings.samples < 2 and row.baseline in ("group", "leave_one_out"):
        raise SettingError(
            f"samples={settings.samples}: algorithm {row.name!r} compares the samples of a group and needs 2 or more"
        )
    return row


def _estimate_memory(
    settings: Settings, algorithm: Algorithm, policy: Policy, prompt: int, recomputed: int
) -> int:
    """Bytes of a step all of whose prompts have ``prompt`` tokens, and completions as many as they may."""
    head = policy.decoder.head_weight
    halves = settings.precision == "bf16"
    sampled = _SAMPLERS[settings.sampler] or (torch.bfloat16 if halves else head.dtype)
    completion = max([settings.max_new_tokens, *(cap for _, cap in settings.length_stages)])
    rollout = estimate_rollout(
        policy.config,
        prompts=settings.prompts,
        samples=settings.samples,
        prompt=prompt,
        max_new_tokens=completion,
        cache_bytes=cache_bytes(head.device),
        speculate=settings.speculate,
        bytes_per_number=sampled_itemsize(
            policy.config, dtype=sampled, device=head.device, speculate=settings.speculate
        ),
        int8=settings.sampler == "int8",
        captured=is_captured(policy.config, head.device, speculate=settings.speculate),
    )
    rows = settings.prompts * settings.samples
    layouts, read = (
        of_completions(
            prompts=settings.prompts,
            rows=number,
            prompt=prompt,
            completion=completion,
            token_budget=settings.token_budget,
        )
        for number in (-(-rows // algorithm.minibatches), rows)
    )
    return estimate_rl(
        policy.config,
        layouts,
        read,
        rollout,
        algorithm,
        like=head,
        beside=settings.staleness > 0,
        mtp=settings.mtp_lr > 0,
        halves=halves,
        moments=settings.moments,
        recomputed=recomputed,
    )


def _roll_out(
    policy: Policy,
    engine: NativeEngine,
    asking: Asking,
    rewards: Sequence[Reward],
    early: EarlyVerdicts,
    algorithm: Algorithm,
    settings: Settings,
    under_way: list[Group],
    *,
    cap: int,
    seed: int,
    step: int,
) -> tuple[Rollout, list[float] | None]:
    """The rollout of a step, of groups in pieces those that are finished now, the others being left ``under_way``; for
    a greedy baseline also the reward of each kept problem's greedy answer, NaN where its verifier failed."""
    asked = [group.problem for group in under_way]
    params = SamplingParams(
        cap, temperature=settings.temperature, end_token_ids=policy.tokenizer.end_token_ids
    )

    def ask(count: int, number: int) -> list[Problem]:
        if not number:
            count = max(0, count - len(under_way))
        chosen = asking.ask(count, asked, seed=seed, step=step, number=number)
        if step == 0 and number == 0:
            check_known_good(rewards, chosen[0], policy.renderer)
        asked.extend(chosen)
        return chosen

    def done(problem: Problem, completions: Sequence[Completion]) -> None:
        if problem.task in BATCHES:
            early.begin(problem, read_completions(policy, problem, completions)[1])

    def judged(groups: list[Group]) -> Rollout:
        return judge_groups(policy, groups, rewards, progress=step / settings.steps, accuracy=early.judge)

    def answer(problems: Sequence[Problem], samples: int, params: SamplingParams) -> Rollout:
        prompts = [policy.renderer.prompt(problem.prompt) for problem in problems]
        groups = sample_groups(engine, problems, prompts, samples, params, seed, step, done=done)
        return judged(groups)

    def answer_in_pieces(problems: Sequence[Problem], most: int) -> Rollout:
        prompts = [policy.renderer.prompt(problem.prompt) for problem in problems]
        version = engine.policy_version
        under_way.extend(
            begin_group(problem, ids, settings.samples, version=version)
            for problem, ids in zip(problems, prompts, strict=True)
        )
        finished: list[Group] = []
        while not finished:
            under_way[:] = sample_piece(engine, under_way, params, most, seed=seed, step=step)
            finished = [group for group in under_way if is_finished(group, cap)]
        under_way[:] = [group for group in under_way if not is_finished(group, cap)]
        return judged(finished)

    piece = settings.piece_tokens
    rollout = roll_out(
        ask,
        lambda problems: (
            answer_in_pieces(problems, piece) if piece else answer(problems, settings.samples, params)
        ),
        prompts=settings.prompts,
        algorithm=algorithm,
        max_rounds=settings.refill_rounds,
        max_tokens=settings.token_limit or math.inf,
        rng=python_rng(seed, "surplus", step) if asking.num_sets > 1 else None,  # one set needs no draw
    )
    if algorithm.baseline != "greedy":
        return rollout, None
    kept = [rollout.groups[p].problem for p in rollout.kept]
    scored = answer(kept, 1, replace(params, temperature=0.0)).scored
    return rollout, [reward if known else math.nan for reward, known in zip(scored.total, scored.valid, strict=True)]


@contextmanager
def _named(step: int) -> Iterator[None]:
    """Errors say at which step they came up."""
    try:
        yield
    except AhaError as error:
        raise type(error)(f"step {step}: {error}") from error


def _tokens(groups: Sequence[Group]) -> int:
    return sum(len(completion.token_ids) for group in groups for completion in group.completions)
