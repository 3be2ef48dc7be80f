"""Supervised fine-tuning on worked examples: the cold start, the second SFT of the base, and distillation are all
this."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from aha.config import Amount, Count, Frozen, NotNegative, Rate, Share
from aha.data.examples import load_examples
from aha.errors import DataError
from aha.model.precision import Precision, use_precision
from aha.objective.mtp import LAST_WEIGHT
from aha.records import StageResult
from aha.stages.context import Context
from aha.stages.memory import check_memory, estimate_supervised, memory_metrics
from aha.stages.models import load_policy, save_policy
from aha.train.balance import Balance
from aha.train.batch import collate_packed
from aha.train.memory import of_documents
from aha.train.optimizer import Moments, build_adamw
from aha.train.schedule import learning_rate
from aha.train.state import TrainState
from aha.train.step import nll_step
from aha.util.seeds import python_rng


class Settings(Frozen):
    """``batch_tokens`` per update, packed into rows of ``row_length``, ``rows`` of them a micro-batch. Where the model
    has modules of multi-token prediction, their loss counts ``mtp_weight``; with 0 they stay as they are.

    ``precision`` is that of the linear maps' products, ``moments`` the optimiser's; weights stay float32.
    """

    epochs: Count = 2
    batch_tokens: Count = 1_024
    row_length: Count = 192
    rows: Count = 8
    lr: Rate = 1e-3
    warmup: Amount = 5
    final_ratio: Share = 0.1
    weight_decay: NotNegative = 0.0
    max_grad_norm: Rate = 1.0
    balance: Balance = Balance()
    mtp_weight: NotNegative = LAST_WEIGHT
    precision: Precision = "float32"
    moments: Moments = "float32"


def run(settings: Settings, inputs: Mapping[str, Path], context: Context) -> StageResult:
    """``init`` is where the weights come from; every input named ``data...`` is a stage with ``examples.jsonl``."""
    policy = load_policy(inputs["init"] / "model")
    sources = [inputs[edge] for edge in sorted(inputs) if edge.startswith("data")]
    worked = [example for source in sources for example in load_examples(source / "examples.jsonl")]
    examples = [policy.renderer.example(example.question, example.completion) for example in worked]
    for example, ids in zip(worked, [e.ids for e in examples], strict=True):
        if len(ids) > settings.row_length + 1:
            raise DataError(
                f"an example of {example.origin} has {len(ids)} tokens, row_length {settings.row_length} takes "
                f"{settings.row_length + 1}: raise it or leave the example out: {example.question[:80]!r}"
            )
    updates = _updates([len(e.ids) for e in examples], settings, context.seed)
    if not updates:
        raise DataError(f"nothing to learn: {len(worked)} examples of {len(sources)} inputs, {settings.epochs} epochs")
    layouts = (
        of_documents(
            [len(examples[i].ids) for i in update],
            [sum(mask > 0 for mask in examples[i].loss_mask[1:]) for i in update],
            width=settings.row_length,
            rows_per_batch=settings.rows,
        )
        for update in updates
    )
    device = policy.decoder.head_weight.device
    ahead_weight = settings.mtp_weight if policy.config.num_nextn_predict_layers else 0.0
    need = estimate_supervised(policy.config, layouts, like=policy.decoder.head_weight, mtp=ahead_weight > 0)
    check_memory(need, policy, lower="rows or row_length")
    use_precision(policy.decoder, settings.precision)
    optimizer = build_adamw(
        policy.decoder,
        lr=settings.lr,
        betas=(0.9, 0.95),
        eps=1e-8,
        weight_decay=settings.weight_decay,
        moments=settings.moments,
    )
    state = TrainState(0, policy.decoder, optimizer, {"loss": None})
    state.resume(context.out / "state")
    context.rewind_metrics(state.step)
    while state.step < len(updates):
        started = time.perf_counter()
        chosen = [(examples[i].ids, examples[i].loss_mask) for i in updates[state.step]]
        batches = collate_packed(chosen, width=settings.row_length, rows_per_batch=settings.rows)
        lr = learning_rate(
            state.step,
            base=settings.lr,
            warmup=settings.warmup,
            total=len(updates),
            shape="cosine",
            final_ratio=settings.final_ratio,
        )
        metrics = nll_step(
            policy.decoder,
            optimizer,
            batches,
            lr=lr,
            max_grad_norm=settings.max_grad_norm,
            balance=settings.balance,
            mtp_weight=ahead_weight,
        )
        state.step += 1
        state.extra["loss"] = metrics["loss"]
        memory = memory_metrics(state.step, need, device)
        context.log({"step": state.step, **metrics, **memory, "seconds": time.perf_counter() - started})
        if context.save_due():
            state.save(context.out / "state")
        context.progress(state.step, len(updates), loss=metrics["loss"])
    save_policy(policy, context.out / "model")
    return StageResult({"loss": state.extra["loss"], "steps": len(updates), "examples": len(examples)})


def _updates(lengths: list[int], settings: Settings, seed: int) -> list[list[int]]:
    """Example indices of every update: each epoch shuffled by its own stream and cut at ``batch_tokens``."""
    updates: list[list[int]] = []
    for epoch in range(settings.epochs):
        order = list(range(len(lengths)))
        python_rng(seed, "order", epoch).shuffle(order)
        batch: list[int] = []
        for i in order:
            batch.append(i)
            if sum(lengths[j] for j in batch) >= settings.batch_tokens:
                updates.append(batch)
                batch = []
        if batch:
            updates.append(batch)
    return updates
