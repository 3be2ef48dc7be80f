"""A process reward model: step labels by Monte-Carlo rollouts of the policy, or from a file, and training on them.

R1 left it out of training (R1v1 4.2); search uses it as a guide. Labels, soft targets and the loss are Snell et al.'s
(2408.03314, appendix D). Of a problem as many right as wrong texts are labelled: a policy that is mostly right would
else teach its model to call everything right, which is no guide where it errs.

Writes ``labels/`` (what was labelled, in pieces, so that a stopped stage does not label again) and ``model/``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from aha.config import Amount, Count, Frozen, Rate
from aha.data.problems import load_problems
from aha.data.step_labels import StepText, load_step_texts
from aha.errors import DataError
from aha.evaluate.estimators import share_interval
from aha.evaluate.runner import count_errors
from aha.model.heads import ProcessRewardModel, save_process_reward_model
from aha.records import Problem, StageResult, Status
from aha.reward.accuracy import judge_accuracy
from aha.reward.process import Ids, label_steps
from aha.reward.response import read_response
from aha.reward.steps import step_ends
from aha.rollout.engine import Engine, SamplingParams
from aha.stages.context import Context
from aha.stages.memory import check_memory, estimate_supervised, memory_metrics
from aha.stages.models import Policy, build_loaded_engine, load_policy
from aha.tasks import chain
from aha.train.balance import Balance
from aha.train.batch import LabelledSteps, collate_steps
from aha.train.memory import of_texts
from aha.train.optimizer import build_adamw
from aha.train.reward_step import process_step
from aha.train.schedule import learning_rate
from aha.train.state import TrainState
from aha.util.files import hash_fraction, read_json, write_json_atomic
from aha.util.seeds import python_rng, stream

TOKEN_BUDGET = 4_096  # of a micro-batch
SCORE_BUDGET = 32_768  # of one that needs no gradients


class Settings(Frozen):
    """Each of ``problems`` is answered ``samples`` times. Of its different texts at most ``each`` right and as many
    wrong ones are labelled by ``rollouts`` from the end of each step; one that is always right or always wrong is left
    out (``each`` 0: all texts of all problems). A higher ``temperature`` of the texts finds more mistakes of a good
    policy; ``rollout_temperature`` is that of the rollouts. With ``labels`` "outcome" only a text's last token is
    labelled, by whether it is right, which makes an outcome reward model. ``held_out`` problems, not trained on, say
    what the model is worth.

    ``file`` has labelled steps by other hands, in the place of problems; a tenth of its problems, ``held_out`` at most,
    is held out. ``balance`` keeps the load of experts even."""

    labels: Literal["steps", "outcome"] = "steps"
    file: Path | None = None
    problems: Count = 1_000
    held_out: Amount = 200
    samples: Count = 8
    each: Amount = 2
    rollouts: Count = 8
    max_new_tokens: Count = 80
    temperature: Rate = 1.0
    rollout_temperature: Rate = 1.0
    chunk: Count = 100
    epochs: Count = 3
    batch: Count = 32
    lr: Rate = 3e-4
    warmup: Amount = 3
    max_grad_norm: Rate = 1.0
    balance: Balance = Balance()


def run(settings: Settings, inputs: Mapping[str, Path], context: Context) -> StageResult:
    """``policy`` samples and gives the trunk. ``accuracy``: held-out steps whose score and label are on one side of one
    half, also of those labelled right and wrong by themselves; ``agreement``: labels of chain sums that agree with the
    exact check of the step, likewise."""
    policy = load_policy(inputs["policy"] / "model")
    metrics: dict[str, Any] = {}
    if settings.file is not None:
        train, test = _of_file(settings, policy)
    else:
        train, test = (_of_problems(name, settings, inputs, policy, context, metrics) for name in ("train", "test"))
    model = _train(policy, train, settings, context)
    scored = _scored(model, test)
    metrics |= _shares("accuracy", [(label >= 0.5, score >= 0.5) for score, label in scored])
    save_process_reward_model(model, policy.config, context.out / "model")
    policy.tokenizer.save(context.out / "model")
    return StageResult({"texts": len(train), "steps": sum(len(text.places) for text in train), **metrics})


def _shares(name: str, pairs: Sequence[tuple[bool, bool]]) -> dict[str, Any]:
    """How often two verdicts agree, with its interval: of all, of those whose first is right, of the rest."""
    found = {}
    for suffix, own in (
        ("", list(pairs)),
        ("_right", [pair for pair in pairs if pair[0]]),
        ("_wrong", [pair for pair in pairs if not pair[0]]),
    ):
        if own:
            found[f"{name}{suffix}"] = share_interval(sum(a == b for a, b in own), len(own)).as_dict()
    return found


def _of_problems(
    name: str,
    settings: Settings,
    inputs: Mapping[str, Path],
    policy: Policy,
    context: Context,
    metrics: dict[str, Any],
) -> list[LabelledSteps]:
    """A chunk that was labelled before a stop is read, so that only the others ask the engine."""
    count = settings.problems if name == "train" else settings.held_out
    problems = load_problems(inputs["problems"] / f"{name}.jsonl") if count else []
    asked = python_rng(context.seed, "process_reward", name).sample(problems, min(count, len(problems)))
    engine: Engine | None = None
    texts: list[LabelledSteps] = []
    agree: list[tuple[bool, bool]] = []
    for start in range(0, len(asked), settings.chunk):
        path = context.out / "labels" / f"{name}-{start:06}.json"
        chunk = asked[start : start + settings.chunk]
        if not path.exists():
            engine = engine or build_loaded_engine(policy)
            found, exact = label_problems(engine, policy, chunk, settings, stream(context.seed, "label", name, start))
            path.parent.mkdir(exist_ok=True)
            write_json_atomic(path, {"texts": found, "exact": exact})
            context.save_due()  # the file is the state
            context.progress(start + len(chunk), len(asked))
        kept = read_json(path)
        texts += [LabelledSteps(*text) for text in kept["texts"]]
        agree += [(right, label) for right, label in kept["exact"]]
    if asked and not texts:
        raise DataError(
            f"of {len(asked)} {name} problems none was answered both right and wrong in {settings.samples} samples: "
            "ask more problems, sample more, or label every text with each=0"
        )
    metrics |= _shares(f"agreement/{name}", agree)
    return texts


def label_problems(
    engine: Engine, policy: Policy, problems: Sequence[Problem], settings: Settings, seed: int
) -> tuple[list[LabelledSteps], list[tuple[bool, bool]]]:
    """Texts of the problems with their steps labelled; and for each step that states a total of a chain sum, whether
    exact arithmetic calls it right, and whether its label does."""
    params = SamplingParams(
        settings.max_new_tokens, settings.temperature, end_token_ids=policy.tokenizer.end_token_ids
    )
    prompts = [policy.renderer.prompt(problem.prompt) for problem in problems]
    seeds = [[stream(seed, "sample", p, g) for g in range(settings.samples)] for p in range(len(problems))]
    groups = engine.generate(prompts, seeds, params)
    whose = [p for p, group in enumerate(groups) for _ in group]
    said = [c.token_ids for group in groups for c in group]
    right = _judge(policy, [problems[p] for p in whose], said)
    chosen = _choose(whose, said, right, settings.each) if settings.each else list(range(len(said)))
    texts = [(prompts[whose[i]], said[i]) for i in chosen]
    ends = [step_ends(policy.tokenizer.pieces(ids)) for _, ids in texts]
    outcomes = [right[i] for i in chosen]

    def judge(asked: Sequence[tuple[int, Ids]]) -> list[bool]:
        return _judge(policy, [problems[whose[chosen[t]]] for t, _ in asked], [ids for _, ids in asked])

    if settings.labels == "outcome":
        ends = [own[-1:] for own in ends]
        labels: list[tuple[float, ...]] = [(float(outcome),) for outcome in outcomes]
    else:
        params = replace(params, temperature=settings.rollout_temperature)
        labels = label_steps(
            engine, texts, ends, outcomes, judge, rollouts=settings.rollouts, params=params, seed=seed
        )
    found = [
        LabelledSteps(prompt + ids, len(prompt), [len(prompt) + end for end in own], chances)
        for (prompt, ids), own, chances in zip(texts, ends, labels, strict=True)
    ]
    exact = []
    for i, (_, ids), own, chances in zip(chosen, texts, ends, labels, strict=True):
        exact += _exact(policy, problems[whose[i]], ids, own[:-1], chances)
    return found, exact


def _judge(policy: Policy, problems: Sequence[Problem], said: Sequence[Ids]) -> list[bool]:
    tails = [policy.renderer.prompt_text(problem.prompt)[-64:] for problem in problems]
    texts = [policy.tokenizer.decode(ids) for ids in said]
    responses = [read_response(text, prompt_tail=tail) for text, tail in zip(texts, tails, strict=True)]
    verdicts = judge_accuracy(problems, responses)
    count_errors(verdicts)
    return [verdict.status is Status.RIGHT for verdict in verdicts]


def _choose(whose: Sequence[int], said: Sequence[Ids], right: Sequence[bool], each: int) -> list[int]:
    """Of every problem the first different texts, as many right as wrong ones, at most ``each``."""
    kinds: dict[int, dict[bool, dict[Ids, int]]] = {}
    for i, (p, ids, verdict) in enumerate(zip(whose, said, right, strict=True)):
        kinds.setdefault(p, {True: {}, False: {}})[verdict].setdefault(ids, i)
    chosen = []
    for kind in kinds.values():
        count = min(each, len(kind[True]), len(kind[False]))
        chosen += [i for verdict in (True, False) for i in list(kind[verdict].values())[:count]]
    return sorted(chosen)


def _exact(
    policy: Policy, problem: Problem, ids: Ids, ends: Sequence[int], labels: Sequence[float]
) -> list[tuple[bool, bool]]:
    if problem.task != "chain":
        return []
    exact = [chain.is_on_the_way(problem.meta["expression"], policy.tokenizer.decode(ids[: end + 1])) for end in ends]
    return [(right, label >= 0.5) for label, right in zip(labels, exact, strict=False) if right is not None]


def _of_file(settings: Settings, policy: Policy) -> tuple[list[LabelledSteps], list[LabelledSteps]]:
    """To train on and to test on: a tenth of the problems, by a hash."""
    assert settings.file is not None
    rows = load_step_texts(settings.file)
    texts = [(row, text) for row in rows if len((text := _labelled(row, policy)).ids) <= policy.config.longest]
    if not texts:
        raise DataError(f"{settings.file}: none of {len(rows)} texts fits the model's {policy.config.longest} tokens")
    problems = sorted({row.problem for row, _ in texts}, key=hash_fraction)
    tested = set(problems[: min(settings.held_out, len(problems) // 10)])
    train, test = ([text for row, text in texts if (row.problem in tested) == held_out] for held_out in (False, True))
    return train, test


def _labelled(text: StepText, policy: Policy) -> LabelledSteps:
    """Steps are read a line each, behind the prompt."""
    ids = list(policy.renderer.prompt(text.problem))
    start, places, labels = len(ids), [], []
    for step, label in zip(text.steps, text.labels, strict=True):
        ids += policy.tokenizer.encode(step if step.endswith("\n") else step + "\n")
        if label is not None:
            places.append(len(ids) - 1)
            labels.append(label)
    return LabelledSteps(ids, start, places, labels)


def _train(
    policy: Policy, texts: Sequence[LabelledSteps], settings: Settings, context: Context
) -> ProcessRewardModel:
    updates = len(texts) // settings.batch
    total = updates * settings.epochs
    if not total:
        raise DataError(f"{len(texts)} labelled texts are fewer than one batch of {settings.batch}: label more")

    def chunk(step: int) -> list[LabelledSteps]:
        epoch, at = divmod(step, updates)
        order = python_rng(context.seed, "order", epoch).sample(range(len(texts)), len(texts))
        return [texts[i] for i in order[at * settings.batch : (at + 1) * settings.batch]]

    layouts = (of_texts([len(t.ids) for t in chunk(step)], token_budget=TOKEN_BUDGET) for step in range(total))
    need = estimate_supervised(policy.config, layouts, like=policy.decoder.head_weight)
    check_memory(need, policy, lower="batch")
    model = ProcessRewardModel(policy.decoder)
    optimizer = build_adamw(model, lr=settings.lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    state = TrainState(0, model, optimizer, {})
    state.resume(context.out / "state")
    context.rewind_metrics(state.step)
    while state.step < total:
        started = time.perf_counter()
        lr = learning_rate(
            state.step, base=settings.lr, warmup=settings.warmup, total=total, shape="cosine", final_ratio=0.1
        )
        batches = collate_steps(chunk(state.step), token_budget=TOKEN_BUDGET)
        figures = process_step(
            model, optimizer, batches, lr=lr, max_grad_norm=settings.max_grad_norm, balance=settings.balance
        )
        state.step += 1
        memory = memory_metrics(state.step, need, policy.decoder.head_weight.device)
        context.log({"step": state.step, **figures, **memory, "seconds": time.perf_counter() - started})
        if context.save_due():
            state.save(context.out / "state")
        context.progress(state.step, total, loss=figures["loss"], accuracy=figures["accuracy"])
    return model


def _scored(model: ProcessRewardModel, texts: Sequence[LabelledSteps]) -> list[tuple[float, float]]:
    """Score and label of every labelled step."""
    pairs = []
    for batch in collate_steps(texts, token_budget=SCORE_BUDGET):
        with torch.inference_mode():
            scores = torch.sigmoid(model(batch.ids_BT, batch.starts_B, batch.rows_N, batch.places_N).float()).tolist()
        pairs += list(zip(scores, batch.labels_N.tolist(), strict=True))
    return pairs
