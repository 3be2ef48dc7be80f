"""Preference optimisation: a policy learns from pairs directly, by a row of objective/direct.py.

The reference is the policy that training begins with. Its log-probs are computed once, before the first update, and
kept beside the state while the stage runs: no second model is held.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import model_validator
from torch import Tensor

from aha.config import Amount, Count, Frozen, NotNegative, Rate, Share
from aha.data.preference_files import load_pairs
from aha.data.preferences import Pair
from aha.errors import DataError, SettingError, nearest
from aha.evaluate.estimators import mean_interval, share_interval
from aha.model.precision import Precision, use_precision
from aha.objective.direct import PREFERENCES, Preference, compute_score
from aha.records import StageResult
from aha.stages.context import Context
from aha.stages.memory import check_memory, estimate_supervised, memory_metrics
from aha.stages.models import Policy, load_policy, save_policy, train_last_layers
from aha.train.balance import Balance
from aha.train.batch import CompletionPair, PolicyBatch, PolicyRow, collate_completion_pairs, collate_policy
from aha.train.direct_step import compute_sequence_logprobs, direct_step
from aha.train.memory import of_branches
from aha.train.optimizer import build_adamw
from aha.train.schedule import learning_rate
from aha.train.state import TrainState
from aha.util.files import read_json, write_json_atomic
from aha.util.seeds import python_rng


class Settings(Frozen):
    """``algorithm`` is a row of objective/direct.py; ``beta`` and ``margin`` replace the row's where given. ``batch``
    pairs an update, in micro-batches of ``token_budget`` tokens; pairs longer than ``longest`` tokens are left out.
    ``balance`` keeps the load of experts even. Only the last ``layers`` of the body learn (0: all). ``precision`` is
    that of the linear maps' products; weights stay float32."""

    algorithm: str = "dpo"
    beta: Rate | None = None
    margin: NotNegative | None = None
    epochs: Count = 1
    batch: Count = 32
    lr: Rate = 1e-5
    warmup: Amount = 5
    final_ratio: Share = 0.1
    max_grad_norm: Rate = 1.0
    token_budget: Count = 4_096
    longest: Count = 8_192
    layers: Amount = 0
    precision: Precision = "float32"
    balance: Balance = Balance()

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        resolve_preference(self)
        return self


def run(settings: Settings, inputs: Mapping[str, Path], context: Context) -> StageResult:
    """``init`` has the policy, ``preferences`` the ``pairs_train.jsonl`` and ``pairs_test.jsonl`` of preference_data.py
    or verified_pairs.py. ``held_out`` is measured on the latter: ``accuracy``, ``margin``, and the margin before;
    ``left_out`` counts pairs of both."""
    row = resolve_preference(settings)
    policy = load_policy(inputs["init"] / "model")
    decoder = policy.decoder
    use_precision(decoder, settings.precision)
    paths = (inputs["preferences"] / f"pairs_{name}.jsonl" for name in ("train", "test"))
    (train, longer), (test, too) = (_fitting(load_pairs(path), policy, settings) for path in paths)
    others = _others(train) if row.needs_baseline else []
    updates = _updates(len(train), settings, context.seed)
    layouts = ([of_branches(b.branches) for b in _collate(train, update, settings)] for update in updates)
    need = estimate_supervised(policy.config, layouts, like=decoder.head_weight)
    check_memory(need, policy, lower="token_budget")
    train_last_layers(policy, settings.layers)
    optimizer = build_adamw(decoder, lr=settings.lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    held_out = collate_completion_pairs(test, token_budget=settings.token_budget)
    before = _reference(context.out / "reference.json", policy, train, others, held_out, settings)
    state = TrainState(0, decoder, optimizer, {"last": {}})
    state.resume(context.out / "state")
    context.rewind_metrics(state.step)
    while state.step < len(updates):
        started = time.perf_counter()
        update = updates[state.step]
        lr = learning_rate(
            state.step,
            base=settings.lr,
            warmup=settings.warmup,
            total=len(updates),
            shape="cosine",
            final_ratio=settings.final_ratio,
        )
        metrics = direct_step(
            decoder,
            optimizer,
            _collate(train, update, settings),
            row=row,
            reference_R=before["train"].view(-1, 2)[update].flatten(),
            others=_collate_rows([others[i] for i in update], settings) if others else (),
            others_reference_R=before["others"][update] if others else None,
            lr=lr,
            max_grad_norm=settings.max_grad_norm,
            balance=settings.balance,
        )
        state.step += 1
        state.extra["last"] = {key: metrics[key] for key in ("loss", "accuracy", "margin")}
        memory = memory_metrics(state.step, need, decoder.head_weight.device)
        context.log({"step": state.step, **metrics, **memory, "seconds": time.perf_counter() - started})
        if context.save_due():
            state.save(context.out / "state")
        context.progress(state.step, len(updates), loss=metrics["loss"], margin=metrics["margin"])
    save_policy(policy, context.out / "model")
    measured = _measure(held_out, compute_sequence_logprobs(decoder, held_out), before["test"], row)
    (context.out / "reference.json").unlink()
    measured["margin_before"] = _measure(held_out, before["test"], before["test"], row)["margin"]
    counts = {"pairs": len(train), "left_out": {"too long": longer + too}, "steps": state.step}
    return StageResult({**state.extra["last"], **counts, "held_out": measured})


def resolve_preference(settings: Settings) -> Preference:
    """The row that the settings name, with what they replace; ``SettingError`` offers the nearest name."""
    if settings.algorithm not in PREFERENCES:
        offer = nearest(settings.algorithm, PREFERENCES)
        raise SettingError(f"no preference algorithm {settings.algorithm!r}; {offer}")
    row = PREFERENCES[settings.algorithm]
    if settings.beta is not None:
        row = replace(row, beta=settings.beta)
    if settings.margin is not None:
        row = replace(row, margin=settings.margin)
    return row


def _fitting(pairs: Sequence[Pair], policy: Policy, settings: Settings) -> tuple[list[CompletionPair], int]:
    """Those that are short enough, and how many are not."""
    found, most = [], min(settings.longest, policy.config.longest)
    for pair in pairs:
        examples = [policy.renderer.example(pair.problem.prompt, text) for text in (pair.chosen, pair.rejected)]
        if max(len(example.ids) for example in examples) <= most:
            prompt = examples[0].loss_mask.count(0)
            found.append(CompletionPair(examples[0].ids[:prompt], *(example.ids[prompt:] for example in examples)))
    if not found:
        raise DataError(
            f"none of {len(pairs)} pairs is at most {most} tokens long (longest={settings.longest}, the model's "
            f"{policy.config.longest_by} {policy.config.longest})"
        )
    return found, len(pairs) - len(found)


def _others(pairs: Sequence[CompletionPair]) -> list[PolicyRow]:
    """Each prompt with the next completion of another prompt, chosen and rejected ones in turn."""
    rows = []
    for i, pair in enumerate(pairs):
        following = (pairs[(i + n) % len(pairs)] for n in range(1, len(pairs)))
        other = next((p for p in following if p.prompt_ids != pair.prompt_ids), None)
        if other is None:
            raise DataError("kto compares with completions of other prompts, and all pairs have the same one")
        completion = other.rejected_ids if i % 2 else other.chosen_ids
        rows.append(PolicyRow(pair.prompt_ids, completion, 0.0, [0.0] * len(completion)))
    return rows


def _updates(count: int, settings: Settings, seed: int) -> list[list[int]]:
    """Pair indices of every update: each epoch in an order of its own stream."""
    updates = []
    for epoch in range(settings.epochs):
        order = list(range(count))
        python_rng(seed, "order", epoch).shuffle(order)
        updates += [order[start : start + settings.batch] for start in range(0, count, settings.batch)]
    return updates


def _collate(pairs: Sequence[CompletionPair], update: Sequence[int], settings: Settings) -> list[PolicyBatch]:
    return collate_completion_pairs([pairs[i] for i in update], token_budget=settings.token_budget)


def _collate_rows(rows: Sequence[PolicyRow], settings: Settings) -> list[PolicyBatch]:
    return collate_policy(rows, weights=[1.0] * len(rows), token_budget=settings.token_budget)


def _reference(
    path: Path,
    policy: Policy,
    train: Sequence[CompletionPair],
    others: Sequence[PolicyRow],
    held_out: Sequence[PolicyBatch],
    settings: Settings,
) -> dict[str, Tensor]:
    """Log-probs of all completions under the first weights: read where they were kept, since floats survive JSON."""
    if not path.exists():
        batches = {
            "train": collate_completion_pairs(train, token_budget=settings.token_budget),
            "others": _collate_rows(others, settings),
            "test": held_out,
        }
        found = {n: compute_sequence_logprobs(policy.decoder, b).tolist() if b else [] for n, b in batches.items()}
        write_json_atomic(path, found)
    return {name: torch.tensor(values) for name, values in read_json(path).items()}


def _measure(
    batches: Sequence[PolicyBatch], logp_R: Tensor, reference_R: Tensor, row: Preference
) -> dict[str, Any]:
    length_of = {index: n for batch in batches for index, n in zip(batch.rows, batch.lengths, strict=True)}
    lengths_R = torch.tensor([length_of[index] for index in range(len(length_of))])
    margins = row.beta * compute_score(logp_R, reference_R, lengths_R, row=row).view(-1, 2) @ torch.tensor([1.0, -1.0])
    values = margins.tolist()
    return {
        "accuracy": share_interval(sum(value > 0 for value in values), len(values)).as_dict(),
        "margin": mean_interval(values).as_dict(),
    }
