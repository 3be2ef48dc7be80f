"""A preference model, trained on pairs or on labelled texts: helpfulness reads the answer alone, safety reads the
thinking too (R1v2 3.1)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from aha.config import Amount, Count, Frozen, NotNegative, Rate
from aha.data.preferences import Pair, is_harmful, make_pair
from aha.data.problems import load_problems
from aha.errors import DataError
from aha.model.heads import RewardModel, save_reward_model
from aha.records import StageResult
from aha.reward.learned import Reads, pad_right
from aha.stages.context import Context
from aha.stages.judged_texts import Item, Loss, items_of_pairs, load_items, report_of, sides
from aha.stages.memory import check_memory, estimate_supervised, memory_metrics
from aha.stages.models import Policy, load_policy, train_last_layers
from aha.train.balance import Balance
from aha.train.batch import collate_labelled, collate_preference
from aha.train.memory import of_pairs, of_texts
from aha.train.microbatch import split_by_tokens
from aha.train.optimizer import build_adamw
from aha.train.reward_step import label_step, preference_step
from aha.train.schedule import learning_rate
from aha.train.state import TrainState
from aha.util.seeds import python_rng

TOKEN_BUDGET = 4_096  # of a micro-batch
SCORE_BUDGET = 32_768  # of one that needs no gradients


class Settings(Frozen):
    """``reads`` decides what the model sees, and with it which of the toy's prompts it judges: safety the harmful,
    helpfulness the rest. ``loss``: "pairwise" compares (R1's helpfulness), "pointwise" labels each text (its safety);
    of a pair the chosen text is good and the rejected one bad. ``margin`` times the margin of a judged pair is what the
    scores should differ by. ``pairs`` and ``held_out_pairs`` are made by rule where the stage has no input
    ``preferences``; texts of those longer than ``longest`` tokens are left out. Only the last ``layers`` of the
    body learn (0: all). ``balance`` keeps the load of experts even."""

    reads: Reads
    loss: Loss = "pairwise"
    margin: NotNegative = 0.0
    pairs: Count = 1_200
    held_out_pairs: Count = 200
    batch: Count = 32
    lr: Rate = 3e-4
    warmup: Amount = 3
    max_grad_norm: Rate = 1.0
    longest: Count = 8_192
    layers: Amount = 0
    balance: Balance = Balance()


def run(settings: Settings, inputs: Mapping[str, Path], context: Context) -> StageResult:
    """``init`` gives the trunk; ``preferences`` is a stage with some of yours, else ``problems`` has the toy's prompts.
    ``accuracy`` is that on prompts never trained on, ``held_out`` says more of it; ``offset`` is the mean score, which
    the zero of a pairwise model is moved to; ``left_out`` counts rows of both sides, and why."""
    policy = load_policy(inputs["init"] / "model")
    left_out: Counter[str] = Counter()
    train, test = (_items(name, settings, inputs, policy, context.seed, left_out) for name in ("train", "test"))
    total = len(train) // settings.batch
    if not total:
        raise DataError(f"{len(train)} rows to train on, fewer than one batch of {settings.batch}: add rows")
    chunks = [train[step * settings.batch : (step + 1) * settings.batch] for step in range(total)]
    layout = of_pairs if settings.loss == "pairwise" else of_texts
    layouts = (layout([item.size for item in chunk], token_budget=TOKEN_BUDGET) for chunk in chunks)
    need = estimate_supervised(policy.config, layouts, like=policy.decoder.head_weight, logits=False)
    check_memory(need, policy, lower="batch")
    train_last_layers(policy, settings.layers)
    model = RewardModel(policy.decoder)
    optimizer = build_adamw(model, lr=settings.lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    state = TrainState(0, model, optimizer, {})
    state.resume(context.out / "state")
    context.rewind_metrics(state.step)
    while state.step < total:
        started = time.perf_counter()
        lr = learning_rate(
            state.step, base=settings.lr, warmup=settings.warmup, total=total, shape="cosine", final_ratio=0.1
        )
        metrics = _step(model, optimizer, chunks[state.step], settings, lr=lr)
        state.step += 1
        memory = memory_metrics(state.step, need, policy.decoder.head_weight.device)
        context.log({"step": state.step, **metrics, **memory, "seconds": time.perf_counter() - started})
        if context.save_due():
            state.save(context.out / "state")
        context.progress(state.step, total, loss=metrics["loss"], accuracy=metrics["accuracy"])
    held_out = report_of([_scores(model, texts, policy) for texts in sides(test)], test)
    known = [_scores(model, texts, policy) for texts in sides(train[:200])]
    save_reward_model(model, policy.config, context.out / "model")
    policy.tokenizer.save(context.out / "model")
    offset = float(torch.cat(known).mean()) if settings.loss == "pairwise" else 0.0
    accuracy = held_out["accuracy"]["value"]
    counts = {"pairs": len(train), "left_out": dict(left_out)}
    return StageResult({"accuracy": accuracy, **counts, "offset": offset, "held_out": held_out})


def _step(
    model: RewardModel, optimizer: torch.optim.Optimizer, chunk: Sequence[Item], settings: Settings, *, lr: float
) -> dict[str, float]:
    how: dict[str, Any] = {"lr": lr, "max_grad_norm": settings.max_grad_norm, "balance": settings.balance}
    if settings.loss == "pairwise":
        pairs, margins = [(i.first, i.second) for i in chunk], [settings.margin * i.margin for i in chunk]
        batches = collate_preference(pairs, token_budget=TOKEN_BUDGET, margins=margins)
        return preference_step(model, optimizer, batches, **how)
    texts, labels = [i.first for i in chunk], [i.label for i in chunk]
    labelled = collate_labelled(texts, labels, token_budget=TOKEN_BUDGET)
    return label_step(model, optimizer, labelled, **how)


def _items(
    name: str, settings: Settings, inputs: Mapping[str, Path], policy: Policy, seed: int, left_out: Counter[str]
) -> list[Item]:
    """What is trained on or tested, in the order in which it is; what is not is counted in ``left_out``."""
    if "preferences" in inputs:
        items, alike = load_items(inputs["preferences"], name, settings.reads, settings.loss, policy.renderer)
        kept = _shuffled(items, name, settings, policy, seed)
        left_out.update({"nothing to compare": alike, "too long": len(items) - len(kept)})
        return kept
    count = settings.pairs if name == "train" else settings.held_out_pairs
    pairs = _pairs(inputs["problems"] / f"general_{name}.jsonl", count, settings, seed)
    items, _ = items_of_pairs(pairs, settings.reads, settings.loss, policy.renderer)
    if settings.loss == "pairwise":  # pairs are drawn at random
        return items
    return _shuffled(items, name, settings, policy, seed)


def _shuffled(items: Sequence[Item], name: str, settings: Settings, policy: Policy, seed: int) -> list[Item]:
    most = min(settings.longest, policy.config.longest)
    kept = [item for item in items if item.size <= most]
    if not kept:
        raise DataError(
            f"none of {len(items)} {name} rows is at most {most} tokens long (longest={settings.longest}, the model's "
            f"{policy.config.longest_by} {policy.config.longest})"
        )
    python_rng(seed, "order", name).shuffle(kept)
    return kept


def _pairs(path: Path, count: int, settings: Settings, seed: int) -> list[Pair]:
    problems = [p for p in load_problems(path) if is_harmful(p) == (settings.reads == "everything")]
    if not problems:
        raise DataError(f"{path} has no prompt that a model which reads {settings.reads} would judge")
    rng = python_rng(seed, "pairs", path.name)
    return [make_pair(rng.choice(problems), rng) for _ in range(count)]


def _scores(model: RewardModel, texts: Sequence[tuple[int, ...]], policy: Policy) -> torch.Tensor:
    """The score of each text, on the CPU."""
    found = torch.empty(len(texts))
    for rows in split_by_tokens([len(text) for text in texts], SCORE_BUDGET):
        with torch.no_grad():
            scores = model(*pad_right([texts[i] for i in sorted(rows)], policy.tokenizer.pad_id))
        found[sorted(rows)] = scores.float().cpu()
    return found
