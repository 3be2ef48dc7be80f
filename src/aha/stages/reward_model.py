"""A preference model trained on pairs: helpfulness reads the answer alone, safety reads the thinking too (R1v2 3.1)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch

from aha.config import Amount, Count, Frozen, Rate
from aha.data.preferences import Pair, is_harmful, make_pair
from aha.data.problems import load_problems
from aha.errors import DataError
from aha.model.heads import RewardModel, save_reward_model
from aha.records import StageResult
from aha.reward.learned import judge_ids, pad_right, text_to_judge
from aha.reward.response import read_response
from aha.stages.context import Context
from aha.stages.memory import check_memory, estimate_supervised, memory_metrics
from aha.stages.models import Policy, load_policy
from aha.train.batch import collate_preference
from aha.train.memory import of_pairs
from aha.train.optimizer import build_adamw
from aha.train.schedule import learning_rate
from aha.train.state import TrainState
from aha.train.step import preference_step
from aha.util.seeds import python_rng

TOKEN_BUDGET = 4_096  # of a micro-batch


class Settings(Frozen):
    """``reads`` decides what the model sees, and with it which prompts it judges: safety the harmful, helpfulness the
    rest."""

    reads: Literal["answer", "everything"]
    pairs: Count = 1_200
    held_out_pairs: Count = 200
    batch: Count = 32
    lr: Rate = 3e-4
    warmup: Amount = 3
    max_grad_norm: Rate = 1.0


def run(settings: Settings, inputs: Mapping[str, Path], context: Context) -> StageResult:
    """``init`` gives the trunk. ``accuracy`` is that on pairs of prompts never trained on; ``offset`` is the mean
    score."""
    policy = load_policy(inputs["init"] / "model")
    train = _pairs(inputs["problems"] / "general_train.jsonl", settings.pairs, settings, context.seed)
    test = _pairs(inputs["problems"] / "general_test.jsonl", settings.held_out_pairs, settings, context.seed)
    ids = [_ids(pair, settings, policy) for pair in train]
    total = len(ids) // settings.batch
    if not total:
        raise DataError(f"pairs is {settings.pairs}, fewer than one batch of {settings.batch}: raise it")
    lengths = [max(map(len, pair)) for pair in ids]
    batched = (lengths[step * settings.batch : (step + 1) * settings.batch] for step in range(total))
    need = estimate_supervised(
        policy.config,
        (of_pairs(chunk, token_budget=TOKEN_BUDGET) for chunk in batched),
        like=policy.decoder.head_weight,
        logits=False,
    )
    check_memory(need, policy, lower="batch")
    model = RewardModel(policy.decoder)
    optimizer = build_adamw(model, lr=settings.lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    state = TrainState(0, model, optimizer, {})
    state.resume(context.out / "state")
    context.rewind_metrics(state.step)
    while state.step < total:
        started = time.perf_counter()
        chunk = ids[state.step * settings.batch : (state.step + 1) * settings.batch]
        lr = learning_rate(
            state.step, base=settings.lr, warmup=settings.warmup, total=total, shape="cosine", final_ratio=0.1
        )
        batches = collate_preference(chunk, token_budget=TOKEN_BUDGET)
        metrics = preference_step(model, optimizer, batches, lr=lr, max_grad_norm=settings.max_grad_norm)
        state.step += 1
        memory = memory_metrics(state.step, need, policy.decoder.head_weight.device)
        context.log({"step": state.step, **metrics, **memory, "seconds": time.perf_counter() - started})
        if context.save_due():
            state.save(context.out / "state")
        context.progress(state.step, total, loss=metrics["loss"], accuracy=metrics["accuracy"])
    chosen, rejected = _scores(model, [_ids(pair, settings, policy) for pair in test], policy)
    trained = _scores(model, ids[:200], policy)
    save_reward_model(model, policy.config, context.out / "model")
    policy.tokenizer.save(context.out / "model")
    accuracy = float((chosen > rejected).float().mean())
    return StageResult({"accuracy": accuracy, "pairs": len(train), "offset": float(torch.cat(trained).mean())})


def _pairs(path: Path, count: int, settings: Settings, seed: int) -> list[Pair]:
    problems = [p for p in load_problems(path) if is_harmful(p) == (settings.reads == "everything")]
    if not problems:
        raise DataError(f"{path} has no prompt that a model which reads {settings.reads} would judge")
    rng = python_rng(seed, "pairs", path.name)
    return [make_pair(rng.choice(problems), rng) for _ in range(count)]


def _ids(pair: Pair, settings: Settings, policy: Policy) -> tuple[tuple[int, ...], tuple[int, ...]]:
    chosen, rejected = (
        judge_ids(policy.renderer, pair.problem, text_to_judge(read_response(text), settings.reads))
        for text in (pair.chosen, pair.rejected)
    )
    return chosen, rejected


def _scores(
    model: RewardModel, pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], policy: Policy
) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        chosen = model(*pad_right([pair[0] for pair in pairs], policy.tokenizer.pad_id))
        rejected = model(*pad_right([pair[1] for pair in pairs], policy.tokenizer.pad_id))
    return chosen, rejected
