"""Where the time of sampling and of an update goes: with PyTorch's operations alone, and with the compiled kernels.

    python -m benchmarks.where

Shares of one rollout of the benchmark's small Qwen2 (benchmarks/rollout.py), by PyTorch's profiler and by clocks around
the kernels' functions; and of one update of GRPO on such a rollout (benchmarks/train.py), by the profiler. Each way in
a process of its own. Writes docs/measured/where.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from aha.model.decoder import build_decoder
from aha.objective.algorithms import ALGORITHMS
from aha.objective.weights import token_weights
from aha.rollout.engine import SamplingParams
from aha.rollout.native.compiled import CompiledRunner
from aha.rollout.native.engine import NativeEngine
from aha.rollout.native.runner import Runner
from aha.train.batch import PolicyRow, collate_policy
from aha.train.policy_step import policy_step
from aha.util.allocator import keep_freed_pages
from aha.util.files import write_json_atomic
from benchmarks import train
from benchmarks.setting import CONFIG, DTYPES, build_lengths, build_prompts, processor_name, versions
from benchmarks.train import CASES, LEARNING_RATE, build_optimizer

OPERATORS = {
    "products of weights": ("mkldnn::_linear_pointwise", "aten::mm", "aten::addmm", "aten::linear"),
    "attention": ("aten::bmm", "aten::baddbmm", "aten::_softmax", "aten::index_put_", "aten::_index_put_impl_"),
    "norms and activations": (
        "aten::_fused_rms_norm",
        "aten::silu",
        "aten::mul",
        "aten::mul_",
        "aten::pow",
        "aten::mean",
    ),
    "sampling": ("aten::cumsum", "aten::searchsorted", "aten::topk", "aten::gather", "aten::log", "aten::minimum"),
    "copies and conversions": ("aten::copy_",),
}
UPDATE_OPERATORS = {
    "matrix products": ("mkldnn::_linear_pointwise", "aten::mm", "aten::addmm", "aten::addmm_"),
    "attention": (
        "_Attention",
        "_AttentionBackward",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
        "aten::bmm",
        "aten::baddbmm",
        "aten::_softmax",
        "aten::_softmax_backward_data",
    ),
    "feed-forward and norms beside their products": (
        "_SwiGLU",
        "_SwiGLUBackward",
        "_AddRMSNorm",
        "_AddRMSNormBackward",
        "aten::silu",
        "aten::silu_backward",
    ),
    "log-probabilities beside their products": ("_TokenLogprobs", "_TokenLogprobsBackward", "aten::exp_"),
    "sums, copies and other passes over memory": (
        "aten::mul",
        "aten::mul_",
        "aten::add",
        "aten::add_",
        "aten::addcmul",
        "aten::sub",
        "aten::exp",
        "aten::sum",
        "aten::copy_",
        "aten::cat",
        "aten::fill_",
        "aten::index_select",
        "aten::scatter_add_",
    ),
    "optimiser": ("aten::_fused_adamw_", "aten::linalg_vector_norm", "aten::_foreach_norm"),
}
FUNCTIONS = {"forward": "layers", "read_logits": "logits", "sample": "sampling", "record": "recording"}


def roll_out(engine: NativeEngine, run: int, *, skew: bool) -> int:
    """One rollout of the benchmark; tokens sampled."""
    lengths, prompts = build_lengths(skew=skew), build_prompts()
    seeds = [[run << 32 | p << 16 | g for g in range(len(own))] for p, own in enumerate(lengths)]
    engine.generate(prompts, seeds, SamplingParams(max(map(max, lengths))), limits=lengths)
    return sum(map(sum, lengths))


def measure(dtype: str, *, skew: bool) -> dict[str, Any]:
    """Shares of the time by part, of both ways."""
    found: dict[str, Any] = {"dtype": dtype, "lengths": "uneven" if skew else "even"}
    engine = NativeEngine(CONFIG, dtype=DTYPES[dtype])
    assert isinstance(engine._runner, CompiledRunner), "the kernels are what is measured: is there a C compiler?"
    engine.load_weights(build_decoder(CONFIG, seed=0), 0)
    roll_out(engine, 0, skew=skew)
    kernels, clock = engine._runner._kernels, dict.fromkeys(FUNCTIONS, 0.0)
    plain = {name: getattr(kernels, name) for name in FUNCTIONS}

    def timed(name: str) -> Any:
        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = plain[name](*arguments)
            clock[name] += time.perf_counter() - start
            return result

        return call

    for name in FUNCTIONS:
        setattr(kernels, name, timed(name))
    start = time.perf_counter()
    tokens = roll_out(engine, 1, skew=skew)
    seconds = time.perf_counter() - start
    for name in FUNCTIONS:
        setattr(kernels, name, plain[name])
    parts = {part: clock[name] / seconds for name, part in FUNCTIONS.items()}
    found["kernels"] = {"parts": parts | {"Python": 1 - sum(parts.values())}, "tokens/s": tokens / seconds}

    engine._held = Runner(CONFIG, dtype=DTYPES[dtype], device=torch.device("cpu"))
    engine.load_weights(build_decoder(CONFIG, seed=0), 0)
    roll_out(engine, 0, skew=skew)
    start = time.perf_counter()
    roll_out(engine, 1, skew=skew)
    seconds = time.perf_counter() - start
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        roll_out(engine, 2, skew=skew)
    found["PyTorch"] = {"parts": _shares(profiler, OPERATORS), "tokens/s": tokens / seconds}
    return found


def measure_update(dtype: str) -> dict[str, Any]:
    """Processor seconds of an update of GRPO in this process, kernels or not, and the shares of its parts."""
    case = next(case for case in CASES if not case.packs and not case.beta)
    algorithm = replace(ALGORITHMS["grpo"], beta=0.0)
    keep_freed_pages()
    decoder = build_decoder(case.config, seed=0)
    optimizer = build_optimizer(decoder, dtype)
    rng, rows = random.Random(0), case.prompts * case.samples
    said = [[rng.randrange(1, case.config.vocab_size) for _ in range(case.new)] for _ in range(rows)]
    asked = [ids for ids in train.build_prompts(case) for _ in range(case.samples)]
    likely = [-math.log(case.config.vocab_size)] * case.new
    batches = collate_policy(
        [PolicyRow(q, ids, rng.choice([-1.0, 1.0]), likely) for q, ids in zip(asked, said, strict=True)],
        weights=token_weights([case.new] * rows, algorithm.aggregation),
        token_budget=case.token_budget,
    )

    def update() -> None:
        policy_step(
            decoder, optimizer, batches, algorithm=algorithm, num_sequences=rows, importance_cap=2.0, lr=LEARNING_RATE,
            max_grad_norm=1.0,
        )  # fmt: skip

    update()
    start = time.process_time()
    update()
    seconds = time.process_time() - start
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        update()
    return {"seconds": seconds, "parts": _shares(profiler, UPDATE_OPERATORS)}


def _shares(profiler: profile, operators: Mapping[str, Sequence[str]]) -> dict[str, float]:
    times = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    total = sum(times.values())
    parts = {part: sum(times.get(name, 0.0) for name in names) / total for part, names in operators.items()}
    return parts | {"the rest": 1 - sum(parts.values())}


def _update_in_a_process(dtype: str, kernels: bool) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.where", "--update", dtype]
    environment = os.environ | ({} if kernels else {"AHA_KERNELS": "off"})
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return {"dtype": dtype, "way": "kernels" if kernels else "PyTorch"} | json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--update", choices=list(DTYPES), help="an update in this process, as JSON, and nothing else")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.update:
        print(json.dumps(measure_update(arguments.update)))
        return
    updates = [_update_in_a_process(dtype, kernels) for dtype in DTYPES for kernels in (False, True)]
    for one in updates:
        shares = ", ".join(f"{part} {share:.0%}" for part, share in one["parts"].items())
        print(f"update, {one['dtype']}, {one['way']}: {one['seconds']:.2f} s; {shares}")
    rows = [measure(dtype, skew=skew) for dtype in DTYPES for skew in (False, True)]
    for row in rows:
        for way in ("PyTorch", "kernels"):
            shares = ", ".join(f"{part} {share:.0%}" for part, share in row[way]["parts"].items())
            print(f"{row['dtype']}, {row['lengths']}, {way}: {row[way]['tokens/s']:,.0f} tokens/s; {shares}")
    found = {"benchmark": "where", "rows": rows, "updates": updates}
    found |= {"processor": processor_name(), "versions": versions("torch")}
    write_json_atomic(arguments.out / "measured" / "where.json", found)


if __name__ == "__main__":
    main()
