"""One GRPO step, rollout and update: Aha and TRL's GRPOTrainer with the same weights, prompts, lengths and thread.

64 completions of 128 tokens, one update of all of them, clip 0.2, no KL term. The reward is a stub of no cost.
"""

from __future__ import annotations

import gc
import importlib.util
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from aha.errors import UsageError
from aha.objective.advantages import group_advantages
from aha.objective.algorithms import ALGORITHMS
from aha.objective.weights import token_weights
from aha.rollout.engine import SamplingParams
from aha.rollout.native.engine import NativeEngine
from aha.rollout.sync import sync_weights
from aha.train.batch import PolicyRow, collate_policy
from aha.train.optimizer import build_adamw
from aha.train.step import policy_step
from benchmarks.setting import (
    CONFIG,
    DTYPES,
    NUM_PROMPTS,
    NUM_SAMPLES,
    UNIFORM_TOKENS,
    Peak,
    Side,
    Stopwatch,
    Taken,
    build_peer,
    build_policy,
    build_prompts,
    compare,
    describe,
    row,
    versions,
)

TOKEN_BUDGET = 1100  # one group
LEARNING_RATE = 1e-5
GRPO = replace(ALGORITHMS["grpo"], beta=0.0)
TRL_BEST = "TRL, micro-batches of 8"
TRL_DEFAULT = "TRL, its defaults"


def measure(*, repeat: int, peers: bool, dtype: str, skew: bool, threads: int) -> dict[str, Any]:
    """Seconds of each step, of ours also its parts."""
    if skew:
        raise UsageError("--skew is for the rollout benchmark: TRL cannot be given lengths")
    torch.set_num_threads(threads)
    parts: dict[str, list[float]] = {"rollout": [], "update": []}
    sides: dict[str, Callable[[], list[Taken]]] = {"aha": lambda: train_aha(DTYPES[dtype], repeat + 1, parts)}
    notes = []
    if peers and importlib.util.find_spec("trl") is None:
        notes.append("TRL is not installed, so it is not measured: pip install 'aha[bench]'")
    elif peers:
        everything = NUM_PROMPTS * NUM_SAMPLES
        sides |= {
            TRL_BEST: lambda: train_trl(DTYPES[dtype], repeat + 1, micro_batch=8, checkpointing=False),
            TRL_DEFAULT: lambda: train_trl(DTYPES[dtype], repeat + 1, micro_batch=everything, checkpointing=True),
        }
    found: dict[str, Side] = {}
    for name, run in sides.items():
        with Peak() as peak:
            runs = run()[1:]  # the first step warms up
        gc.collect()
        found[name] = Side(runs, peak.mib)
        print(f"{name}: {', '.join(f'{taken.wall:.2f}' for taken in runs)} s/step", file=sys.stderr, flush=True)
    rows = [
        row(name, [taken.wall for taken in side.runs], unit="s/step", peak=side.peak) for name, side in found.items()
    ]
    rows[1:1] = [row(f"aha, of it {name}", values[1:], unit="s") for name, values in parts.items()]
    return {
        "benchmark": "train",
        "setting": describe(dtype=dtype, skew=skew, threads=threads, repeat=repeat) | {"token_budget": TOKEN_BUDGET},
        "rows": rows,
        "ratios": compare(found),
        "notes": notes,
        "versions": versions("torch", "transformers", "trl"),
    }


def stub_reward(completion: Sequence[int]) -> float:
    """Something of no cost that differs within a group."""
    return float(sum(completion) % 7)


def train_aha(dtype: torch.dtype, num_steps: int, parts: dict[str, list[float]]) -> list[Taken]:
    """Seconds of each step: sync and check the sampler, sample, judge, advantages, one update."""
    decoder = build_policy(dtype)
    optimizer = build_adamw(decoder, lr=LEARNING_RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    engine = NativeEngine(CONFIG, dtype=dtype)
    prompts, params = build_prompts(), SamplingParams(UNIFORM_TOKENS)
    taken = []
    for step in range(num_steps):
        watch = Stopwatch()
        sync_weights(engine, decoder, version=step)
        seeds = [[step << 32 | p << 16 | g for g in range(NUM_SAMPLES)] for p in range(NUM_PROMPTS)]
        groups = engine.generate(prompts, seeds, params)
        sampled = watch.read().wall
        rewards_PG = torch.tensor([[stub_reward(c.token_ids) for c in group] for group in groups])
        valid_PG = torch.ones_like(rewards_PG, dtype=torch.bool)
        advantages_PG = group_advantages(rewards_PG, valid_PG)
        rows = [
            PolicyRow(ids, c.token_ids, advantages_PG[p, g].item(), c.logprobs)
            for p, (ids, group) in enumerate(zip(prompts, groups, strict=True))
            for g, c in enumerate(group)
        ]
        weights = token_weights([len(r.completion_ids) for r in rows], GRPO.aggregation)
        policy_step(
            decoder,
            optimizer,
            collate_policy(rows, weights=weights, token_budget=TOKEN_BUDGET),
            algorithm=GRPO,
            num_sequences=len(rows),
            lr=LEARNING_RATE,
            max_grad_norm=1.0,
        )
        taken.append(watch.read())
        parts["rollout"].append(sampled)
        parts["update"].append(taken[-1].wall - sampled)
    return taken


def train_trl(dtype: torch.dtype, num_steps: int, *, micro_batch: int, checkpointing: bool) -> list[Taken]:
    """Seconds of each step of GRPOTrainer, from its begin to its end.

    The end token lies outside the model's vocabulary, so that every completion has all its tokens, as on our side.
    """
    import datasets
    import tokenizers
    import transformers
    import trl

    warnings.simplefilter("ignore", FutureWarning)  # transformers warns of its own names
    watches: list[Stopwatch] = []
    steps: list[Taken] = []

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: object, **__: object) -> None:
            watches.append(Stopwatch())

        def on_step_end(self, *_: object, **__: object) -> None:
            steps.append(watches[-1].read())

    words = {f"w{i}": i for i in range(CONFIG.vocab_size)} | {"<eos>": CONFIG.vocab_size}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="w0")
    prompts = [" ".join(f"w{i}" for i in ids) for ids in build_prompts()]
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl.GRPOTrainer(
            model=build_peer(dtype),
            reward_funcs=lambda completion_ids, **_: [stub_reward(ids) for ids in completion_ids],
            args=trl.GRPOConfig(
                output_dir=folder,
                per_device_train_batch_size=micro_batch,
                gradient_accumulation_steps=NUM_PROMPTS * NUM_SAMPLES // micro_batch,
                num_generations=NUM_SAMPLES,
                max_completion_length=UNIFORM_TOKENS,
                max_steps=num_steps,
                learning_rate=LEARNING_RATE,
                lr_scheduler_type="constant",
                max_grad_norm=1.0,
                epsilon=0.2,
                loss_type="grpo",
                gradient_checkpointing=checkpointing,
                bf16=False,
                use_cpu=True,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                logging_strategy="no",
            ),
            train_dataset=datasets.Dataset.from_dict({"prompt": prompts}),
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
        trainer.train()
    return steps
