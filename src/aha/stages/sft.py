"""Supervised fine-tuning on worked examples: the cold start, the second SFT of the base, and distillation are all
this."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from aha.config import Amount, Count, Frozen, NotNegative, Rate, Share
from aha.data.examples import load_examples
from aha.errors import DataError, SettingError, nearest
from aha.model.checkpointing import checkpoint_layers
from aha.model.lora import TARGETS, add_lora, merge_lora, save_adapter
from aha.model.precision import Precision, use_precision
from aha.model.rope import RotationTable
from aha.objective.mtp import LAST_WEIGHT
from aha.records import StageResult
from aha.stages.context import Context
from aha.stages.memory import estimate_supervised, fit_memory, memory_metrics
from aha.stages.models import Policy, load_policy, save_policy
from aha.stages.sft_presets import PRESETS
from aha.tokens.render import Example
from aha.train.balance import Balance
from aha.train.batch import collate_packed
from aha.train.distill_step import distill_step
from aha.train.memory import of_documents
from aha.train.nll_step import nll_step
from aha.train.optimizer import Moments, build_adamw
from aha.train.schedule import learning_rate
from aha.train.state import TrainState
from aha.util.seeds import python_rng


class Lora(Frozen):
    """A low-rank adapter of ``rank`` on the linear maps ``targets`` instead of all weights; 0 trains them all."""

    rank: Amount = 0
    alpha: Rate = 32.0
    targets: tuple[str, ...] = TARGETS


class Settings(Frozen):
    """An update takes ``batch`` examples, or else as many as have ``batch_tokens``, one behind the other in
    micro-batches of at most ``rows * row_length`` tokens; no example is longer than ``row_length``. ``warmup`` counts
    updates; ``warmup_share`` of all of them goes before it. A ``preset`` (stages/sft_presets.py) gives what is not set;
    its context is the ``row_length`` and the model's.

    ``loss_on`` all learns the prompts, too. ``rope_theta`` and ``max_position_embeddings`` replace the model's own, as
    Open-R1 does to make a model of 4,096 tokens read 32,768. ``checkpointing`` computes layers again instead of keeping
    them. With the input ``teacher``, ``soft`` of the loss is the distance to its distribution at ``soft_temperature``.

    Where the model has modules of multi-token prediction, their loss counts ``mtp_weight``; with 0 they stay as they
    are. ``precision`` is that of the linear maps' products, ``moments`` the optimiser's; weights stay float32.
    """

    preset: str | None = None
    epochs: Count = 2
    batch: Count | None = None
    batch_tokens: Count = 1_024
    row_length: Count = 192
    rows: Count = 8
    lr: Rate = 1e-3
    warmup: Amount = 5
    warmup_share: Share | None = None
    final_ratio: Share = 0.1
    weight_decay: NotNegative = 0.0
    max_grad_norm: Rate = 1.0
    loss_on: Literal["completion", "all"] = "completion"
    rope_theta: Rate | None = None
    max_position_embeddings: Count | None = None
    lora: Lora = Lora()
    checkpointing: bool = False
    soft: Share = 1.0
    soft_temperature: Rate = 1.0
    balance: Balance = Balance()
    mtp_weight: NotNegative = LAST_WEIGHT
    precision: Precision = "float32"
    moments: Moments = "float32"

    @model_validator(mode="after")
    def _from_preset(self) -> Settings:
        if self.lora.rank and self.precision != "float32":
            raise ValueError(f"lora with precision {self.precision}: an adapter is float32; leave one of them out")
        if self.preset is None:
            return self
        if self.preset not in PRESETS:
            raise ValueError(f"no preset {self.preset!r}: {nearest(self.preset, PRESETS)}")
        row = PRESETS[self.preset]
        values = {name: getattr(row, name) for name in _PRESET_FIELDS}
        values |= {"row_length": row.context, "max_position_embeddings": row.context, "rows": 1}
        given = self.model_fields_set
        for name, value in values.items():
            if value is not None and name not in given and _SAID_OTHERWISE.get(name) not in given:
                object.__setattr__(self, name, value)  # derived: another preset derives it again
        return self


_PRESET_FIELDS = (
    "epochs", "lr", "batch", "warmup_share", "final_ratio", "rope_theta", "weight_decay", "max_grad_norm",
)  # fmt: skip
_SAID_OTHERWISE = {"warmup_share": "warmup", "batch": "batch_tokens"}  # and would be overruled


def run(settings: Settings, inputs: Mapping[str, Path], context: Context) -> StageResult:
    """``init`` is where the weights come from; every input named ``data...`` is a stage with ``examples.jsonl``;
    ``teacher`` a model with the same tokenizer, whose distributions are learned. An adapter is written to ``adapter``,
    in peft's format, and ``model`` has it merged."""
    policy = _stretched(load_policy(inputs["init"] / "model"), settings)
    teacher = load_policy(inputs["teacher"] / "model") if "teacher" in inputs else None
    if teacher is not None:
        _check_same_tokens(policy, teacher)
        teacher.decoder.requires_grad_(False)
    sources = [inputs[edge] for edge in sorted(inputs) if edge.startswith("data")]
    worked = [example for source in sources for example in load_examples(source / "examples.jsonl")]
    examples = [_example(policy, example.question, example.completion, settings) for example in worked]
    for example, ids in zip(worked, [e.ids for e in examples], strict=True):
        if len(ids) > settings.row_length + 1:
            raise DataError(
                f"an example of {example.origin} has {len(ids)} tokens, row_length {settings.row_length} takes "
                f"{settings.row_length + 1}: raise it or leave the example out: {example.question[:80]!r}"
            )
    longest = max((len(example.ids) for example in examples), default=0)
    if longest > policy.config.longest + 1:
        raising = "raise max_position_embeddings (and rope_theta), or " if "max" in policy.config.longest_by else ""
        raise DataError(
            f"an example has {longest} tokens, the model's {policy.config.longest_by} is {policy.config.longest}: "
            f"{raising}leave it out"
        )
    if teacher is not None and longest > teacher.config.longest + 1:
        raise DataError(
            f"an example has {longest} tokens, the teacher's {teacher.config.longest_by} is {teacher.config.longest}: "
            "leave it out, or take another teacher"
        )
    updates = _updates([len(e.ids) for e in examples], settings, context.seed)
    if not updates:
        raise DataError(f"nothing to learn: {len(worked)} examples of {len(sources)} inputs, {settings.epochs} epochs")
    layouts = [
        of_documents(
            [len(examples[i].ids) for i in update],
            [sum(mask > 0 for mask in examples[i].loss_mask[1:]) for i in update],
            width=settings.rows * settings.row_length,
        )
        for update in updates
    ]
    device = policy.decoder.head_weight.device
    ahead_weight = settings.mtp_weight if policy.config.num_nextn_predict_layers else 0.0
    all_layers = policy.config.num_hidden_layers if settings.checkpointing else 0
    need, recomputed = fit_memory(
        lambda layers: estimate_supervised(
            policy.config,
            layouts,
            like=policy.decoder.head_weight,
            mtp=ahead_weight > 0,
            recomputed=max(layers, all_layers),
            lora=settings.lora.rank,
            teacher=None if teacher is None else teacher.config,
        ),
        policy,
        lower="rows or row_length",
    )
    use_precision(policy.decoder, settings.precision)
    if settings.lora.rank:
        rank, alpha, targets = settings.lora.rank, settings.lora.alpha, settings.lora.targets
        add_lora(policy.decoder, rank=rank, alpha=alpha, targets=targets, seed=context.seed)
    if settings.checkpointing:
        checkpoint_layers(policy.decoder)
    warmup = settings.warmup
    if settings.warmup_share is not None:
        warmup = round(settings.warmup_share * len(updates))
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
        batches = collate_packed(chosen, width=settings.rows * settings.row_length)
        lr = learning_rate(
            state.step,
            base=settings.lr,
            warmup=warmup,
            total=len(updates),
            shape="cosine",
            final_ratio=settings.final_ratio,
        )
        if teacher is None:
            metrics = nll_step(
                policy.decoder,
                optimizer,
                batches,
                lr=lr,
                max_grad_norm=settings.max_grad_norm,
                balance=settings.balance,
                mtp_weight=ahead_weight,
            )
        else:
            metrics = distill_step(
                policy.decoder,
                teacher.decoder,
                optimizer,
                batches,
                soft=settings.soft,
                temperature=settings.soft_temperature,
                lr=lr,
                max_grad_norm=settings.max_grad_norm,
                balance=settings.balance,
                mtp_weight=ahead_weight,
            )
        state.step += 1
        state.extra["loss"] = metrics["loss"]
        memory = memory_metrics(state.step, need, device, recomputed=recomputed)
        context.log({"step": state.step, **metrics, **memory, "seconds": time.perf_counter() - started})
        if context.save_due():
            state.save(context.out / "state")
        context.progress(state.step, len(updates), loss=metrics["loss"])
    if settings.lora.rank:
        base = str(inputs["init"] / "model")
        folder = context.out / "adapter"
        save_adapter(policy.decoder, folder, base=base, rank=rank, alpha=alpha, targets=targets)
        merge_lora(policy.decoder)
    save_policy(policy, context.out / "model")
    return StageResult({"loss": state.extra["loss"], "steps": len(updates), "examples": len(examples)})


def _stretched(policy: Policy, settings: Settings) -> Policy:
    """The policy with another RoPE theta and longest text, where the settings have them."""
    wanted = {"rope_theta": settings.rope_theta, "max_position_embeddings": settings.max_position_embeddings}
    changed = {name: value for name, value in wanted.items() if value is not None}
    if not changed:
        return policy
    config = policy.config.model_copy(update=changed)
    policy.decoder.config = config
    policy.decoder.rotations = RotationTable(
        head_dim=config.head_dim, theta=config.rope_theta, scaling=config.rope_scaling
    )
    return Policy(policy.decoder, config, policy.renderer)


def _check_same_tokens(student: Policy, teacher: Policy) -> None:
    own, other = student.tokenizer.backend.get_vocab(), teacher.tokenizer.backend.get_vocab()
    if own != other:
        raise SettingError(
            f"the teacher's {len(other)} tokens are not the student's {len(own)}: distributions can be learned only "
            "where both share a tokenizer; leave the input teacher out to learn from its texts"
        )


def _example(policy: Policy, question: str, completion: str, settings: Settings) -> Example:
    example = policy.renderer.example(question, completion)
    return example if settings.loss_on == "completion" else Example(example.ids, (1,) * len(example.ids))


def _updates(lengths: list[int], settings: Settings, seed: int) -> list[list[int]]:
    """Example indices of every update: each epoch shuffled by its own stream and cut at ``batch`` examples, or else at
    ``batch_tokens``."""
    updates: list[list[int]] = []
    for epoch in range(settings.epochs):
        order = list(range(len(lengths)))
        python_rng(seed, "order", epoch).shuffle(order)
        batch: list[int] = []
        for i in order:
            batch.append(i)
            full = sum(lengths[j] for j in batch) >= settings.batch_tokens
            if full if settings.batch is None else len(batch) == settings.batch:
                updates.append(batch)
                batch = []
        if batch:
            updates.append(batch)
    return updates
