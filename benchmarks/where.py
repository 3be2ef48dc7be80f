"""Where the time of sampling goes: with PyTorch's operations alone, and with the compiled kernels.

    python -m benchmarks.where

Shares of one rollout of the benchmark's small Qwen2 (benchmarks/rollout.py), by PyTorch's profiler and by clocks around
the kernels' functions. Writes docs/measured/where.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from aha.model.decoder import build_decoder
from aha.rollout.engine import SamplingParams
from aha.rollout.native.compiled import CompiledRunner
from aha.rollout.native.engine import NativeEngine
from aha.rollout.native.runner import Runner
from aha.util.files import write_json_atomic
from benchmarks.setting import CONFIG, DTYPES, build_lengths, build_prompts, processor_name, versions

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

    engine._runner = Runner(CONFIG, dtype=DTYPES[dtype], device=torch.device("cpu"))
    engine.load_weights(build_decoder(CONFIG, seed=0), 0)
    roll_out(engine, 0, skew=skew)
    start = time.perf_counter()
    roll_out(engine, 1, skew=skew)
    seconds = time.perf_counter() - start
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        roll_out(engine, 2, skew=skew)
    times = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    total = sum(times.values())
    parts = {part: sum(times.get(name, 0.0) for name in names) / total for part, names in OPERATORS.items()}
    found["PyTorch"] = {"parts": parts | {"the rest": 1 - sum(parts.values())}, "tokens/s": tokens / seconds}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(dtype, skew=skew) for dtype in DTYPES for skew in (False, True)]
    for row in rows:
        for way in ("PyTorch", "kernels"):
            shares = ", ".join(f"{part} {share:.0%}" for part, share in row[way]["parts"].items())
            print(f"{row['dtype']}, {row['lengths']}, {way}: {row[way]['tokens/s']:,.0f} tokens/s; {shares}")
    found = {"benchmark": "where", "rows": rows, "processor": processor_name(), "versions": versions("torch")}
    write_json_atomic(arguments.out / "measured" / "where.json", found)


if __name__ == "__main__":
    main()
