"""A process reward model: step labels by Monte-Carlo rollouts of the policy, or from a file, and training on them.

R1 left it out of training (R1v1 4.2); search uses it as a guide. Labels, soft targets and the loss are Snell et al.'s
(2408.03314, appendix D).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from aha.config import Amount, Count, Frozen, Rate
from aha.data.problems import load_problems
from aha.data.step_labels import StepText, load_step_texts
from aha.errors import DataError
from aha.evaluate.estimators import share_interval
from aha.model.heads import ProcessRewardModel, save_process_reward_model
from aha.records import Problem, StageResult, Status
from aha.reward.accuracy import judge_accuracy
from aha.reward.process import Ids, label_steps
from aha.reward.response import read_response
from aha.reward.steps import step_ends
from aha.rollout.engine import Engine, SamplingParams
from aha.stages.context import Context
from aha.stages.models import Policy, build_loaded_engine, load_policy
from aha.tasks import chain
from aha.train.batch import LabelledSteps, collate_steps
from aha.train.optimizer import build_adamw
from aha.train.schedule import learning_rate
from aha.train.step import process_step
from aha.util.seeds import python_rng, stream

TOKEN_BUDGET = 4_096  # of a micro-batch


class Settings(Frozen):
    """``samples`` texts of each of ``problems`` are labelled, ``rollouts`` from the end of each step; with ``labels``
    "outcome" only a text's last token is labelled, by whether it is right, which makes an outcome reward model.
    ``file`` has labelled steps by other hands, in the place of problems."""

    labels: Literal["steps", "outcome"] = "steps"
    file: Path | None = None
    problems: Count = 400
    held_out: Amount = 50
    samples: Count = 4
    rollouts: Count = 8
    max_new_tokens: Count = 80
    temperature: Rate = 1.0
    chunk: Count = 50
    epochs: Count = 3
    batch: Count = 32
    lr: Rate = 3e-4
    warmup: Amount = 3
    max_grad_norm: Rate = 1.0


def run(settings: Settings, inputs: Mapping[str, Path], context: Context) -> StageResult:
    """``policy`` samples and gives the trunk. ``accuracy``: steps of held-out problems whose score and label are on one
    side of one half; ``agreement``: labels of chain sums that agree with the exact check of the step."""
    policy = load_policy(inputs["policy"] / "model")
    metrics: dict[str, Any] = {}
    test: list[LabelledSteps] = []
    if settings.file is not None:
        train = [_of_file(text, policy) for text in load_step_texts(settings.file)]
    else:
        engine = build_loaded_engine(policy)
        rng = python_rng(context.seed, "process_reward")
        sets = []
        for name, count in (("train", settings.problems), ("test", settings.held_out)):
            problems = load_problems(inputs["problems"] / f"{name}.jsonl") if count else []
            asked = rng.sample(problems, min(count, len(problems)))
            sets.append(_label(engine, policy, asked, settings, context, metrics, name))
        train, test = sets
    model = _train(policy, train, settings, context)
    if test:
        right = [(score >= 0.5) == (label >= 0.5) for score, label in _scored(model, test)]
        metrics["accuracy"] = share_interval(sum(right), len(right)).as_dict()
    save_process_reward_model(model, policy.config, context.out / "model")
    policy.tokenizer.save(context.out / "model")
    return StageResult({"texts": len(train), "steps": sum(len(text.places) for text in train), **metrics})


def _label(
    engine: Engine,
    policy: Policy,
    problems: Sequence[Problem],
    settings: Settings,
    context: Context,
    metrics: dict[str, Any],
    name: str,
) -> list[LabelledSteps]:
    params = SamplingParams(
        settings.max_new_tokens, settings.temperature, end_token_ids=policy.tokenizer.end_token_ids
    )
    found: list[LabelledSteps] = []
    agree: list[bool] = []
    for start in range(0, len(problems), settings.chunk):
        chunk = problems[start : start + settings.chunk]
        seed = stream(context.seed, "label", name, start)
        texts, ends, labels = sample_labelled(engine, policy, chunk, settings, params, seed)
        for t, ((prompt, ids), own, chances) in enumerate(zip(texts, ends, labels, strict=True)):
            if settings.labels == "outcome":
                own, chances = own[-1:], chances[-1:]
            places = [len(prompt) + end for end in own]
            found.append(LabelledSteps(prompt + ids, places, chances))
            agree += _agreements(policy, chunk[t // settings.samples], ids, own[:-1], chances)
        context.progress(start + len(chunk), len(problems))
    if agree:
        metrics[f"agreement/{name}"] = share_interval(sum(agree), len(agree)).as_dict()
    return found


def sample_labelled(
    engine: Engine, policy: Policy, problems: Sequence[Problem], settings: Settings, params: SamplingParams, seed: int
) -> tuple[list[tuple[Ids, Ids]], list[tuple[int, ...]], list[tuple[float, ...]]]:
    """``samples`` texts of each problem, (prompt, completion); where their steps end; the label of each step."""
    prompts = [policy.renderer.prompt(problem.prompt) for problem in problems]
    seeds = [[stream(seed, "sample", p, g) for g in range(settings.samples)] for p in range(len(problems))]
    groups = engine.generate(prompts, seeds, params)
    texts = [(prompt, c.token_ids) for prompt, group in zip(prompts, groups, strict=True) for c in group]
    ends = [step_ends(policy.tokenizer.pieces(ids)) for _, ids in texts]

    def judge(asked: Sequence[tuple[int, Ids]]) -> list[bool]:
        whose = [problems[t // settings.samples] for t, _ in asked]
        tails = [policy.renderer.prompt_text(problem.prompt)[-64:] for problem in whose]
        said = [policy.tokenizer.decode(ids) for _, ids in asked]
        responses = [read_response(text, prompt_tail=tail) for text, tail in zip(said, tails, strict=True)]
        return [verdict.status is Status.RIGHT for verdict in judge_accuracy(whose, responses)]

    if settings.labels == "outcome":
        outcomes = judge([(t, ids) for t, (_, ids) in enumerate(texts)])
        return texts, ends, [(float(right),) for right in outcomes]
    labels = label_steps(engine, texts, ends, judge, rollouts=settings.rollouts, params=params, seed=seed)
    return texts, ends, labels


def _agreements(
    policy: Policy, problem: Problem, ids: Ids, ends: Sequence[int], labels: Sequence[float]
) -> list[bool]:
    """For each step of a chain sum that states a total: does its label say what exact arithmetic says?"""
    if problem.task != "chain":
        return []
    exact = [chain.is_on_the_way(problem.meta["expression"], policy.tokenizer.decode(ids[: end + 1])) for end in ends]
    return [(label >= 0.5) == right for label, right in zip(labels, exact, strict=False) if right is not None]


def _of_file(text: StepText, policy: Policy) -> LabelledSteps:
    """Steps are read a line each, behind the prompt."""
    ids = list(policy.renderer.prompt(text.problem))
    places, labels = [], []
    for step, label in zip(text.steps, text.labels, strict=True):
        ids += policy.tokenizer.encode(step if step.endswith("\n") else step + "\n")
        if label is not None:
            places.append(len(ids) - 1)
            labels.append(label)
    return LabelledSteps(ids, places, labels)


def _train(
    policy: Policy, texts: Sequence[LabelledSteps], settings: Settings, context: Context
) -> ProcessRewardModel:
    updates = len(texts) // settings.batch
    total = updates * settings.epochs
    if not total:
        raise DataError(f"{len(texts)} labelled texts are fewer than one batch of {settings.batch}: label more")
    model = ProcessRewardModel(policy.decoder)
    optimizer = build_adamw(model, lr=settings.lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    context.rewind_metrics(0)  # minutes of work: it starts again where it was stopped
    for step in range(total):
        started = time.perf_counter()
        epoch, at = divmod(step, updates)
        order = python_rng(context.seed, "order", epoch).sample(range(len(texts)), len(texts))
        chunk = [texts[i] for i in order[at * settings.batch : (at + 1) * settings.batch]]
        lr = learning_rate(step, base=settings.lr, warmup=settings.warmup, total=total, shape="cosine", final_ratio=0.1)
        batches = collate_steps(chunk, token_budget=TOKEN_BUDGET)
        figures = process_step(model, optimizer, batches, lr=lr, max_grad_norm=settings.max_grad_norm)
        context.log({"step": step + 1, **figures, "seconds": time.perf_counter() - started})
        context.progress(step + 1, total, loss=figures["loss"], accuracy=figures["accuracy"])
    return model


def _scored(model: ProcessRewardModel, texts: Sequence[LabelledSteps]) -> list[tuple[float, float]]:
    """Score and label of every labelled step."""
    pairs = []
    for batch in collate_steps(texts, token_budget=TOKEN_BUDGET):
        with torch.inference_mode():
            scores = torch.sigmoid(model(batch.ids_BT, batch.rows_N, batch.places_N).float()).tolist()
        pairs += list(zip(scores, batch.labels_N.tolist(), strict=True))
    return pairs
