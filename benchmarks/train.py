"""Training steps: Aha and TRL at its best setting, with the same weights, prompts, lengths, number type and threads.

Cases: a GRPO step (rollout and update of all completions, clip 0.2) of a small Qwen2 (``T``) and of the shape of
SmolLM2-135M (``S``), without and with a KL term; supervised fine-tuning of ``T`` on packed documents of uneven length.
Each side is a process of its own, so that its peak of memory is its own, and the sides take turns step by step.

On a GPU (``device="cuda"``) the shape is that of Qwen2.5-1.5B (``L``): 64 x 8 x 1,024 new tokens, and documents. There
an update's model FLOPs use is said, too: its FLOPs, every token once, by what products alone would reach in its time.

Without a KL term Aha computes some layers of ``S`` again for their gradients, so that a step takes less than half of
TRL's memory. In bfloat16 it keeps float32 weights in two halves, of which one computes, and sums gradients in float32
over micro-batches; moments are in bfloat16, as DeepSeek-V3's. TRL keeps all of them in bfloat16.
"""

from __future__ import annotations

import importlib.util
import itertools
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from aha.errors import SettingError, UsageError
from aha.model.checkpointing import checkpoint_layers
from aha.model.config import ModelConfig
from aha.model.count import count_parameters
from aha.model.decoder import Decoder, build_decoder
from aha.model.folder import save_model
from aha.model.mapped import MappedDecoder
from aha.objective.advantages import group_advantages
from aha.objective.algorithms import ALGORITHMS
from aha.objective.weights import token_weights
from aha.rollout.engine import SamplingParams
from aha.rollout.native.engine import NativeEngine
from aha.rollout.sync import sync_weights
from aha.train.batch import PolicyRow, collate_packed, collate_policy, with_reference
from aha.train.halves import narrow
from aha.train.nll_step import nll_step
from aha.train.optimizer import build_adamw
from aha.train.policy_step import compute_logprobs, policy_step
from aha.util.allocator import NO_SPLINTERS, keep_freed_pages
from benchmarks.device import GpuPeak, GpuStopwatch, check_device, engine_settings, product_rate
from benchmarks.setting import (
    CONFIG,
    DTYPES,
    QWEN25_1_5B,
    Peak,
    Side,
    Stopwatch,
    Taken,
    clock_of,
    multiplied_type,
    processor_name,
    row,
    versions,
)

SMOLLM2 = ModelConfig(
    model_type="llama",
    vocab_size=49_152,
    hidden_size=576,
    intermediate_size=1_536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=2_048,
)


@dataclass(frozen=True)
class Case:
    """A GRPO step of ``prompts`` x ``samples`` x (``prompt`` + ``new``) tokens in micro-batches of ``token_budget``, or
    SFT of ``packs`` rows of ``pack`` tokens; ``recomputed`` layers keep no activations."""

    name: str
    config: ModelConfig
    prompts: int = 0
    samples: int = 0
    prompt: int = 64
    new: int = 0
    beta: float = 0.0
    packs: int = 0
    pack: int = 1_024
    token_budget: int = 1_100  # about a group of T
    recomputed: int = 0


_T = {"config": CONFIG, "prompts": 8, "samples": 8, "new": 128}
_S = {"config": SMOLLM2, "prompts": 2, "samples": 4, "new": 64}
CASES = (
    Case("T GRPO", **_T),  # type: ignore[arg-type]
    Case("T GRPO, KL", beta=0.001, **_T),  # type: ignore[arg-type]
    Case("S GRPO", recomputed=20, **_S),  # type: ignore[arg-type]
    Case("S GRPO, KL", beta=0.001, **_S),  # type: ignore[arg-type]
    Case("T SFT", CONFIG, packs=8),
    Case("L GRPO", QWEN25_1_5B, prompts=64, samples=8, new=1_024, token_budget=8_300),
    Case("L SFT", QWEN25_1_5B, packs=8, pack=8_192),
)
MICRO_BATCH = 8  # TRL's fastest, for both shapes
LONGEST_DOCUMENT = 1_024
LEARNING_RATE = 1e-5
ADAM: dict[str, Any] = {"lr": LEARNING_RATE, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.0}


def measure(
    *, repeat: int, peers: bool, dtype: str, skew: bool, threads: int, device: str = "cpu", shape: str | None = None
) -> dict[str, Any]:
    """Seconds of each step, of ours also its parts; what the step's FLOPs would take alone. Ratios are of seconds a
    token. ``shape`` is ``T`` or ``S``, else both; on a GPU ``L`` where it is not given. Seconds are the processor's, of
    several threads and on a GPU the wall's."""
    if skew:
        raise UsageError("--skew is for the rollout benchmark: TRL cannot be given lengths")
    check_device(device)
    on_gpu = device == "cuda"
    cases = choose_cases(shape, device)
    torch.set_num_threads(threads)
    rate = product_rate(DTYPES[dtype], torch.device("cuda")) if on_gpu else gemm_rate(DTYPES[dtype])
    notes = [f"matrix products alone: {rate / 1e9:.0f} GFLOP/s"]
    peers = peers and importlib.util.find_spec("trl") is not None
    if not peers:
        notes.append("--no-peers, or TRL is not installed (pip install 'aha[bench]')")
    if on_gpu:
        torch.cuda.empty_cache()  # the steps' processes need the memory now
        notes.append("time is the wall's until all kernels have ended, memory the most that tensors held on the GPU")
    rows: list[dict[str, Any]] = []
    ratios = {}
    floors: dict[str, dict[str, float]] = {}
    uses: dict[str, float] = {}
    clocks = ("wall",) if on_gpu else ("wall", "cpu")
    clock = "wall" if on_gpu else clock_of(threads)
    of_what, unit = ("on the wall", "s") if clock == "wall" else ("in processor time", "s cpu")
    for case in cases:
        sides = {"aha": train_aha, **({"TRL": train_trl} if peers else {})}
        found, parts, tokens = run_in_turn(case, sides, dtype=dtype, threads=threads, repeat=repeat, device=device)
        for name, side in found.items():
            limit = flops(case, tokens[name]) / rate
            share = limit / statistics.median(getattr(taken, clock) for taken in side.runs)
            floors[f"{case.name}: {name}"] = {"seconds": limit, "share": share}
            notes.append(f"{case.name}, {name}: {share:.0%} of the limit of {limit:.2f} s {of_what}")
            walls = [taken.wall for taken in side.runs]
            rows.append(row(f"{case.name}: {name}", walls, unit="s/step", peak=side.peak))
            if name == "aha":
                rows += [row(f"{case.name}: aha, of it {part}", values, unit=unit) for part, values in parts.items()]
        if on_gpu:
            update = statistics.median(parts["update"] if parts else [taken.wall for taken in found["aha"].runs])
            uses[case.name] = update_flops(case, tokens["aha"]) / (update * rate)
            notes.append(f"{case.name}, aha: model FLOPs use of the update {uses[case.name]:.0%}")
        if "TRL" in found:
            ratios[f"{case.name}: aha / TRL"] = {
                clock: statistics.median(
                    getattr(theirs, clock) / getattr(ours, clock) * (tokens["aha"] / tokens["TRL"] if case.packs else 1)
                    for ours, theirs in zip(found["aha"].runs, found["TRL"].runs, strict=True)
                )
                for clock in clocks
            }
            notes.append(f"{case.name}: peak memory {found['aha'].peak / found['TRL'].peak:.2f} of TRL's")
    gpu = {"device": torch.cuda.get_device_name()} if on_gpu else {}
    return {
        "benchmark": "train",
        "setting": {
            "dtype": dtype, "threads": threads, "repeat": repeat,
            "token_budget": max(case.token_budget for case in cases), "micro_batch": MICRO_BATCH,
            "gemm_gflops": rate / 1e9, "processor": processor_name(), **gpu,
        },  # fmt: skip
        "rows": rows,
        "ratios": ratios,
        "floors": floors,
        **({"model_flops_use": uses} if on_gpu else {}),
        "notes": notes,
        "versions": versions("torch", "transformers", "trl"),
    }  # fmt: skip


def choose_cases(shape: str | None, device: str) -> list[Case]:
    """``SettingError`` for a shape that is unknown, or is not for the device. A reference model lies in a file that a
    CPU reads, so a GPU has the cases without."""
    shapes = ("T", "S", "L") if device == "cuda" else ("T", "S")
    if shape is not None and shape not in shapes:
        raise SettingError(f"--shape {shape} on {device}: T (5 M parameters) or S (135 M), on cuda also L (1.5 B)")
    wanted = shape or ("L" if device == "cuda" else "TS")
    return [case for case in CASES if case.name[0] in wanted and not (device == "cuda" and case.beta)]


def gemm_rate(dtype: torch.dtype) -> float:
    """FLOP a second of a large matrix product, in the type that is fastest at it: the median of 9."""
    kind = multiplied_type(dtype)
    a, b = torch.randn(1024, 1024).to(kind), torch.randn(1024, 4096).to(kind)
    taken = []
    for _ in range(10):
        watch = Stopwatch()
        torch.mm(a, b)
        taken.append(watch.seconds())
    return 2 * 1024 * 1024 * 4096 / statistics.median(taken[1:])


def flops(case: Case, tokens: float) -> float:
    """Floating-point operations of a step with every token once: forward, backward, and for GRPO the sampling."""
    c = case.config
    head = c.vocab_size * c.hidden_size
    body = count_parameters(c) - head
    score = 4 * c.num_attention_heads * c.head_dim * c.num_hidden_layers
    if case.packs:  # attention over documents of 200 tokens
        return 3 * tokens * (2 * (body + head) + score * 100)
    rows = case.prompts * case.samples
    seen = case.prompts * case.prompt**2 / 2 + rows * case.new * (case.prompt + case.new / 2)
    forward = 2 * body * (case.prompts * case.prompt + rows * case.new) + 2 * head * rows * case.new + score * seen
    return forward * (5 if case.beta else 4)


def update_flops(case: Case, tokens: float) -> float:
    """Those of forward and backward alone."""
    return flops(case, tokens) * (1 if case.packs else 3 / (5 if case.beta else 4))


Sides = dict[str, Callable[[Case, str, "Turn"], None]]


def run_in_turn(
    case: Case, sides: Sides, *, dtype: str, threads: int, repeat: int, device: str = "cpu"
) -> tuple[dict[str, Side], dict[str, list[float]], dict[str, float]]:
    """``repeat`` steps of each side, after one that does not count; seconds of the parts of ours; tokens of each."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name, train in sides.items():
        pipes[name], other = context.Pipe()
        processes.append(context.Process(target=_work, args=(train, case, dtype, threads, repeat + 1, device, other)))
        with patch.dict(os.environ, {"GLIBC_TUNABLES": NO_SPLINTERS} if name == "aha" else {}):
            processes[-1].start()
        other.close()
    found = {name: Side([], 0.0) for name in sides}
    parts: dict[str, list[float]] = {}
    tokens: dict[str, float] = {}
    try:
        for name in sides:
            pipes[name].recv()  # ready
        for number in range(repeat + 1):
            for name, pipe in pipes.items():
                pipe.send("go")
                taken, peak, of, count = pipe.recv()
                print(f"{case.name}, {name}: {taken.wall:.2f} s", file=sys.stderr, flush=True)
                if number:
                    found[name] = Side([*found[name].runs, taken], max(found[name].peak, peak))
                    for part, value in of.items():
                        parts.setdefault(part, []).append(value)
                tokens[name] = count
    except EOFError:
        raise UsageError(f"{case.name}: a side ended early; its last words are above") from None
    finally:
        for process in processes:
            process.join(timeout=60)
            process.kill()
    return found, parts, tokens


def _work(
    train: Callable[..., None], case: Case, dtype: str, threads: int, steps: int, device: str, pipe: Connection
) -> None:
    sys.stdout = sys.stderr  # peers print as they please
    torch.set_num_threads(threads)
    train(case, dtype, Turn(pipe, steps, device))


class Turn:
    """A side's end of the pipe: waits until it may take a step, and says what that took."""

    def __init__(self, pipe: Connection, steps: int, device: str) -> None:
        self.steps, self.device = steps, device
        self._pipe, self._ready = pipe, False

    @contextmanager
    def step(self, parts: dict[str, float] | None = None, tokens: float = 0.0) -> Iterator[Stopwatch]:
        self.begin()
        yield self.watch
        self.end(parts, tokens)

    def begin(self) -> None:
        if not self._ready:
            self._pipe.send("ready")
            self._ready = True
        self._pipe.recv()
        on_gpu = self.device == "cuda"
        self._peak = GpuPeak() if on_gpu else Peak()
        self._peak.__enter__()
        self.watch = GpuStopwatch() if on_gpu else Stopwatch()

    def end(self, parts: dict[str, float] | None = None, tokens: float = 0.0) -> None:
        taken: Taken = self.watch.read()
        self._peak.__exit__()
        if self.device == "cuda":
            torch.cuda.empty_cache()  # the other side's step comes now, on the same device
        self._pipe.send((taken, self._peak.mib, parts or {}, tokens))


def stub_reward(completion: Sequence[int]) -> float:
    """Something of no cost that differs within a group."""
    return float(sum(completion) % 7)


def build_prompts(case: Case) -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(1, case.config.vocab_size) for _ in range(case.prompt)] for _ in range(case.prompts)]


def build_documents(case: Case, tokens: int) -> list[list[int]]:
    """Random ids; lengths lognormal around 200, at most ``LONGEST_DOCUMENT``."""
    rng, documents = random.Random(0), []
    while sum(map(len, documents)) < tokens:
        length = min(LONGEST_DOCUMENT, max(16, round(rng.lognormvariate(5.0, 0.8))))
        documents.append([rng.randrange(1, case.config.vocab_size) for _ in range(length)])
    return documents


def build_optimizer(decoder: Decoder, dtype: str) -> torch.optim.AdamW:
    """In bfloat16 the decoder becomes so, the optimiser has the other halves of its weights, and moments are so."""
    if dtype == "float32":
        return build_adamw(decoder, **ADAM)
    return build_adamw(decoder, lower=narrow(decoder), moments="bf16", **ADAM)


def train_aha(case: Case, dtype: str, turn: Turn) -> None:
    """Sync and check the sampler, sample, judge, advantages, reference, one update; or one update on documents."""
    keep_freed_pages()
    decoder = build_decoder(case.config, seed=0).to(turn.device)
    optimizer = build_optimizer(decoder, dtype)
    checkpoint_layers(decoder, case.recomputed)
    limits: dict[str, Any] = {"lr": LEARNING_RATE, "max_grad_norm": 1.0}
    parts: dict[str, float] = {}
    if case.packs:
        documents = [(ids, [1.0] * len(ids)) for ids in build_documents(case, case.packs * case.pack)]
        tokens = sum(len(ids) - 1 for ids, _ in documents)
        for _ in range(turn.steps):
            with turn.step(parts, tokens):
                nll_step(decoder, optimizer, collate_packed(documents, width=case.pack), **limits)
        return
    with tempfile.TemporaryDirectory() as folder:
        reference = MappedDecoder(decoder, Path(folder)) if case.beta else None
    algorithm = replace(ALGORITHMS["grpo"], beta=case.beta)
    rows_at_once = engine_settings(turn.device, case.prompts * case.samples)
    engine = NativeEngine(case.config, dtype=DTYPES[dtype], **rows_at_once)
    prompts, params = build_prompts(case), SamplingParams(case.new)
    for step in range(turn.steps):
        with turn.step(parts) as watch:
            sync_weights(engine, decoder, version=step)
            seeds = [[step << 32 | p << 16 | g for g in range(case.samples)] for p in range(case.prompts)]
            groups = engine.generate(prompts, seeds, params)
            engine.release()
            parts["rollout"] = watch.seconds()
            rewards_PG = torch.tensor([[stub_reward(c.token_ids) for c in group] for group in groups])
            advantages_PG = group_advantages(rewards_PG, torch.ones_like(rewards_PG, dtype=torch.bool))
            rows = [
                PolicyRow(ids, c.token_ids, advantages_PG[p, g].item(), c.logprobs)
                for p, (ids, group) in enumerate(zip(prompts, groups, strict=True))
                for g, c in enumerate(group)
            ]
            weights = token_weights([len(r.completion_ids) for r in rows], algorithm.aggregation)
            batches = collate_policy(rows, weights=weights, token_budget=case.token_budget)
            if reference is not None:
                batches = with_reference(batches, compute_logprobs(reference.decoder, batches))
                reference.release()
                parts["reference"] = watch.seconds() - parts["rollout"]
            so_far = watch.seconds()
            policy_step(
                decoder, optimizer, batches, algorithm=algorithm, num_sequences=len(rows), importance_cap=2.0, **limits
            )
            optimizer.zero_grad(set_to_none=True)
            parts["update"] = watch.seconds() - so_far


def train_trl(case: Case, dtype: str, turn: Turn) -> None:
    """GRPOTrainer's or SFTTrainer's steps, each from its begin to its end.

    The end token lies outside the model's vocabulary, so that every completion has all its tokens, as on our side.
    """
    import datasets
    import tokenizers
    import transformers
    import trl

    warnings.simplefilter("ignore", FutureWarning)  # transformers warns of its own names
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tokens = 0.0

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: object, **__: object) -> None:
            turn.begin()

        def on_step_end(self, *_: object, **__: object) -> None:
            turn.end(tokens=tokens)

    vocabulary = case.config.vocab_size
    words = {f"w{i}": i for i in range(vocabulary)} | {"<eos>": vocabulary}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="w0")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        save_model(build_decoder(case.config, seed=0), case.config, model)
        common: dict[str, Any] = {
            "output_dir": folder, "model_init_kwargs": {"dtype": dtype}, "max_steps": turn.steps,
            "learning_rate": LEARNING_RATE, "adam_beta2": ADAM["betas"][1], "lr_scheduler_type": "constant",
            "max_grad_norm": 1.0,
            "gradient_checkpointing": False, "bf16": False, "use_cpu": turn.device == "cpu", "report_to": "none",
            "save_strategy": "no", "disable_tqdm": True, "logging_strategy": "no",
        }  # fmt: skip
        build: Callable[..., Any]
        if case.packs:
            documents = build_documents(case, case.packs * case.pack * (turn.steps + 1))
            build = partial(
                trl.SFTTrainer,
                args=trl.SFTConfig(
                    per_device_train_batch_size=1, gradient_accumulation_steps=case.packs, packing=True,
                    max_length=case.pack, **common,
                ),
                train_dataset=datasets.Dataset.from_dict({"input_ids": documents}),
            )  # fmt: skip
        else:
            rows = case.prompts * case.samples
            prompts = [" ".join(f"w{i}" for i in ids) for ids in build_prompts(case)]
            build = partial(
                trl.GRPOTrainer,
                reward_funcs=lambda completion_ids, **_: [stub_reward(ids) for ids in completion_ids],
                args=trl.GRPOConfig(
                    per_device_train_batch_size=min(MICRO_BATCH, rows),
                    gradient_accumulation_steps=max(1, rows // MICRO_BATCH), num_generations=case.samples,
                    max_completion_length=case.new, beta=case.beta, epsilon=0.2, loss_type="grpo", **common,
                ),
                train_dataset=datasets.Dataset.from_dict({"prompt": prompts}),
            )  # fmt: skip
        trainer = build(model=str(model), processing_class=tokenizer, callbacks=[Clock()])
        if case.packs:
            packed = [len(r["input_ids"]) for r in itertools.islice(trainer.train_dataset, case.packs * turn.steps)]
            tokens = case.packs * statistics.mean(packed)
        trainer.train()
