"""How time and memory of a GRPO step grow: with sequences, group, prompt, answer, model and vocabulary.

    python -m benchmarks.cost

One thing is doubled at a time, from a step of a small Qwen2 with 8 prompts x 8 samples x (64 + 64) tokens. Each
quantity is fitted by a power, ``y = a x^p``, over all points; a power over 1 means that twice as much costs more than
twice. Attention alone may: its share grows with the length. Writes docs/measured/cost.json and a picture.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from aha.model.config import ModelConfig
from aha.model.count import count_parameters
from aha.model.decoder import build_decoder
from aha.objective.algorithms import ALGORITHMS
from aha.objective.weights import token_weights
from aha.rollout.engine import SamplingParams
from aha.rollout.native.engine import NativeEngine
from aha.train.batch import PolicyRow, collate_policy
from aha.train.optimizer import build_adamw
from aha.train.policy_step import policy_step
from aha.util.allocator import keep_freed_pages
from aha.util.files import write_json_atomic
from benchmarks.setting import CONFIG, Peak, Stopwatch, processor_name, versions

TOKEN_BUDGET = 1_100
QUANTITIES = ("rollout s", "update s", "rollout MiB", "update MiB")


@dataclass(frozen=True)
class Step:
    """``prompts`` x ``samples`` completions of ``new`` tokens behind ``prompt`` ones."""

    config: ModelConfig = CONFIG
    prompts: int = 8
    samples: int = 8
    prompt: int = 64
    new: int = 64


def _wide(factor: float) -> ModelConfig:
    width = int(CONFIG.hidden_size * factor)
    head_dim = width // CONFIG.num_attention_heads
    return CONFIG.model_copy(
        update={"hidden_size": width, "intermediate_size": int(2.75 * width), "head_dim": head_dim}
    )


AXES: dict[str, list[tuple[float, Step]]] = {
    "prompts": [(n, Step(prompts=n)) for n in (2, 4, 8, 16, 32)],
    "samples of a prompt": [(n, Step(samples=n)) for n in (2, 4, 8, 16, 32)],
    "tokens of a prompt": [(n, Step(prompt=n)) for n in (32, 64, 128, 256, 512)],
    "tokens of an answer": [(n, Step(new=n)) for n in (32, 64, 128, 256, 512)],
    "parameters": [
        (count_parameters(_wide(f)), Step(config=_wide(f), prompts=4)) for f in (0.25, 0.5, 1, 2, 3)
    ],
    "vocabulary": [
        (v, Step(config=CONFIG.model_copy(update={"vocab_size": v}), prompts=4)) for v in (2048, 8192, 32_768, 131_072)
    ],
}  # fmt: skip


def measure_step(step: Step, repeat: int) -> dict[str, float]:
    """Processor seconds, and the peak of this process's memory in MiB, of rollout and update; the least of the runs."""
    keep_freed_pages()
    torch.set_num_threads(1)
    decoder = build_decoder(step.config, seed=0)
    optimizer = build_adamw(decoder, lr=1e-5)
    engine = NativeEngine(step.config)
    engine.load_weights(decoder, 0)
    rng = random.Random(0)
    prompts = [[rng.randrange(1, step.config.vocab_size) for _ in range(step.prompt)] for _ in range(step.prompts)]
    algorithm = replace(ALGORITHMS["grpo"], beta=0.0)
    found: dict[str, list[float]] = {name: [] for name in QUANTITIES}
    for run in range(repeat + 1):
        seeds = [[run << 32 | p << 16 | g for g in range(step.samples)] for p in range(step.prompts)]
        with Peak() as of_rollout:
            watch = Stopwatch()
            groups = engine.generate(prompts, seeds, SamplingParams(step.new))
            rollout = watch.read().cpu
        rows = [
            PolicyRow(ids, c.token_ids, 1.0 - 2 * (g % 2), c.logprobs)
            for ids, group in zip(prompts, groups, strict=True)
            for g, c in enumerate(group)
        ]
        weights = token_weights([step.new] * len(rows), algorithm.aggregation)
        with Peak() as of_update:
            watch = Stopwatch()
            batches = collate_policy(rows, weights=weights, token_budget=TOKEN_BUDGET)
            policy_step(
                decoder, optimizer, batches, algorithm=algorithm, num_sequences=len(rows), importance_cap=2.0, lr=1e-5,
                max_grad_norm=1.0,
            )  # fmt: skip
            update = watch.read().cpu
        if run:
            for name, value in zip(QUANTITIES, (rollout, update, of_rollout.mib, of_update.mib), strict=True):
                found[name].append(value)
    return {name: min(values) for name, values in found.items()}


def fit_power(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Power of a straight line through the logarithms, by least squares, and that between the last two points."""
    xs, ys = zip(*((math.log(x), math.log(y)) for x, y in points), strict=True)
    (slope, _), (x0, x1), (y0, y1) = statistics.linear_regression(xs, ys), xs[-2:], ys[-2:]
    return slope, (y1 - y0) / (x1 - x0)


def measure_axes(*, repeat: int, axes: Sequence[str]) -> dict[str, Any]:
    """Every point of every axis and the powers of its quantities."""
    rows: dict[str, Any] = {}
    for axis in axes:
        points = []
        for x, step in AXES[axis]:
            with multiprocessing.get_context("spawn").Pool(1) as process:  # whose memory is this point's alone
                points.append({"x": x, **process.apply(measure_step, (step, repeat))})
            print(axis, {key: round(value, 3) for key, value in points[-1].items()}, file=sys.stderr, flush=True)
        powers = {}
        for name in QUANTITIES:
            power, last = fit_power([(point["x"], point[name]) for point in points])
            powers[name] = {"power": power, "last": last}
        rows[axis] = {"points": points, "powers": powers}
    return rows


def draw(rows: dict[str, Any], path: Path) -> None:
    """A panel for each axis: seconds on the left scale, beside a line for twice as much at twice the cost."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    for axes, (name, row) in zip(figure.subplots(2, 3).flat, rows.items(), strict=False):
        xs = [point["x"] for point in row["points"]]
        for quantity in QUANTITIES[:2]:
            power = row["powers"][quantity]["power"]
            label = f"{quantity.removesuffix(' s')}: power {power:.2f}"
            axes.plot(xs, [point[quantity] for point in row["points"]], marker="o", label=label)
        start = row["points"][0]["update s"]
        axes.plot(xs, [start * x / xs[0] for x in xs], color="grey", linewidth=0.8, linestyle=":")
        axes.set(xscale="log", yscale="log", xlabel=name, ylabel="processor seconds")
        axes.minorticks_off()
        axes.set_xticks(xs, [f"{x / 1e6:.1f} M" if x >= 200_000 else f"{x:,}" for x in xs])
        axes.legend(frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--axis", action="append", choices=list(AXES), help="only this one, again for more")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    rows = measure_axes(repeat=arguments.repeat, axes=arguments.axis or list(AXES))
    found = {"benchmark": "cost", "axes": rows, "processor": processor_name(), "versions": versions("torch")}
    write_json_atomic(arguments.out / "measured" / "cost.json", found)
    draw(rows, arguments.out / "figures" / "cost.png")
    for axis, row in rows.items():
        print(axis, {name: f"{of['power']:.2f} (last {of['last']:.2f})" for name, of in row["powers"].items()})


if __name__ == "__main__":
    main()
