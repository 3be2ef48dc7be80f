"""What FP8 costs in accuracy: rounding with outliers, summing in 14 bits, and the loss of the tiny base against BF16.

    python -m benchmarks.fp8 [--steps 1000] [--seed 0] [--runs FOLDER] [--out docs]

Trains the base of r1_tiny in each precision on the same documents (half an hour of one core; a finished run in FOLDER
is taken as it is, an interrupted one goes on), prints every figure and writes ``measured/fp8.json`` and
``figures/fp8.png`` into the folder OUT. DeepSeek-V3 (arXiv 2412.19437) reports a relative loss error below 0.25 % of
curves smoothed with 0.9 (appendix B.1). At the recipe's learning rate two runs of the tiny base that differ in any
rounding part by more than that, which float32 against BF16 shows; at a tenth of it they stay together. There FP8 is
also tried in the forward products alone and in the backward products alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from aha.model import precision
from aha.model.decoder import build_decoder
from aha.model.fp8 import E4M3, E4M3_MAX, TILE, dequantize, emulated_product, product, quantize
from aha.model.precision import Precision, use_precision
from aha.report.plots import PALETTE
from aha.stages import pretrain, tokenizer
from aha.stages.context import Context
from aha.stages.models import TEMPLATE_FILE
from aha.train.batch import collate_packed
from aha.train.nll_step import nll_step
from aha.train.optimizer import build_adamw
from aha.util.files import json_text, write_json_atomic
from benchmarks.setting import processor_name, versions

PRECISIONS: tuple[Precision, ...] = ("float32", "bf16", "fp8")
BASELINE = "bf16"
ALONE = {"fp8, forward alone": (True, False), "fp8, backward alone": (False, True)}
PEAK = pretrain.Settings().lr
TRAININGS: tuple[tuple[float, tuple[str, ...]], ...] = ((PEAK, PRECISIONS), (PEAK / 10, (*PRECISIONS, *ALONE)))
SMOOTHING = 0.9
LINES = {"fp8": "-", "float32": ":", "fp8, forward alone": "--", "fp8, backward alone": "-."}
REGISTER_BITS = 14  # of a Hopper tensor core's accumulator, V3 section 3.3.2
MMA_PRODUCTS = 32  # products that one instruction adds to it


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Frobenius norm of the difference over that of ``exact``."""
    return float((found.double() - exact.double()).norm() / exact.double().norm())


def measure_outlier(factor: float) -> dict[str, float]:
    """Rounding error on all channels but one, which is ``factor`` times as large: a scale for the tensor, or tiles."""
    x_RK = torch.randn(256, 4096, generator=torch.Generator().manual_seed(0))
    x_RK[:, 0] *= factor
    scale = x_RK.abs().amax() / E4M3_MAX
    whole_RK = (x_RK / scale).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3).float() * scale
    tiles_RK = dequantize(quantize(x_RK, rows=1))
    others = slice(1, None)
    return {
        "factor": factor,
        "tensor": relative_error(whole_RK[:, others], x_RK[:, others]),
        "tiles": relative_error(tiles_RK[:, others], x_RK[:, others]),
    }


def measure_sum(K: int) -> dict[str, float]:
    """Errors of a product over ``K``: of rounding to FP8, and of a 14-bit register with and without promotion."""
    generator = torch.Generator().manual_seed(K)
    a_MK, b_NK = torch.randn(128, K, generator=generator), torch.randn(128, K, generator=generator)
    a, b = quantize(a_MK, rows=1), quantize(b_NK, rows=128)
    exact_MN = dequantize(a).double() @ dequantize(b).double().t()
    return {
        "K": K,
        "fp8": relative_error(emulated_product(a, b), a_MK.double() @ b_NK.double().t()),
        "promoted": relative_error(sum_in_register(dequantize(a), dequantize(b), promote_every=128), exact_MN),
        "unpromoted": relative_error(sum_in_register(dequantize(a), dequantize(b), promote_every=K), exact_MN),
    }


def sum_in_register(a_MK: Tensor, b_NK: Tensor, *, promote_every: int) -> Tensor:
    """``a @ b.T`` in a register cut to 14 bits after every 32 products and emptied into float32 now and then."""
    total_MN = torch.zeros(len(a_MK), len(b_NK), dtype=torch.float32)
    register_MN = torch.zeros(len(a_MK), len(b_NK), dtype=torch.float64)
    for start in range(0, a_MK.shape[1], MMA_PRODUCTS):
        part = slice(start, start + MMA_PRODUCTS)
        mantissa, exponent = torch.frexp(register_MN + a_MK[:, part].double() @ b_NK[:, part].double().t())
        register_MN = torch.ldexp((mantissa * 2**REGISTER_BITS).trunc() / 2**REGISTER_BITS, exponent)
        if (start + MMA_PRODUCTS) % promote_every == 0:
            total_MN += register_MN.float()
            register_MN.zero_()
    return total_MN + register_MN.float()


def measure_step(arm: Precision, *, repeat: int = 5) -> float:
    """Median processor seconds of one update of the tiny base's shape on its number of tokens, on one thread."""
    settings = pretrain.Settings()
    config = pretrain.model_config(settings.shape, vocabulary=512, eos_token_id=None)
    decoder = build_decoder(config, seed=0)
    use_precision(decoder, arm)
    optimizer = build_adamw(decoder, lr=settings.lr)
    ids = torch.randint(1, 512, (settings.rows, settings.row_length + 1)).tolist()
    documents = [(row, [True] * len(row)) for row in ids]
    batches = collate_packed(documents, width=settings.rows * settings.row_length)
    taken = []
    for _ in range(repeat + 1):
        began = time.process_time()
        nll_step(decoder, optimizer, batches, lr=settings.lr, max_grad_norm=settings.max_grad_norm)
        taken.append(time.process_time() - began)
    return statistics.median(taken[1:])


class Partly(torch.autograd.Function):
    """``x @ weight.T`` with the forward product, or those of the backward pass, in FP8."""

    @staticmethod
    def forward(ctx: Any, x_MK: Tensor, weight: Tensor, forward: bool, backward: bool) -> Tensor:
        ctx.save_for_backward(x_MK, weight)
        ctx.in_fp8 = backward
        if forward:
            return product(quantize(x_MK, rows=1), quantize(weight, rows=TILE)).to(x_MK.dtype)
        return x_MK @ weight.t()

    @staticmethod
    def backward(ctx: Any, grad_MN: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x_MK, weight = ctx.saved_tensors
        if not ctx.in_fp8:
            return grad_MN @ weight, grad_MN.t() @ x_MK, None, None
        grad_x = product(quantize(grad_MN, rows=1), quantize(weight, rows=TILE).transposed())
        columns = [quantize(tensor.t().contiguous(), rows=1) for tensor in (grad_MN, x_MK)]
        return grad_x.to(x_MK.dtype), product(*columns).to(weight.dtype), None, None


@contextlib.contextmanager
def only(forward: bool, backward: bool) -> Iterator[None]:
    """Within, the linear maps that compute in FP8 do so in one of the two directions."""

    def linear(x: Tensor, weight: Tensor, *, keep_e5m6: bool = False) -> Tensor:
        y_MN: Tensor = Partly.apply(x.flatten(0, -2), weight, forward, backward)
        return y_MN.view(*x.shape[:-1], len(weight))

    def swiglu(gate: Tensor, up: Tensor, down_weight: Tensor) -> Tensor:
        return linear(F.silu(gate) * up, down_weight)

    with (
        mock.patch.object(precision, "fp8_linear", linear),
        mock.patch.object(precision, "fp8_swiglu", swiglu),
    ):
        yield


def train(arm: str, *, lr: float, steps: int, seed: int, runs: Path) -> list[float]:
    """The tiny base's loss at each step in one precision. The documents depend on the seed alone."""
    words = runs / f"seed{seed}" / "words"
    out = runs / f"seed{seed}" / f"lr{lr:g}" / arm.replace(", ", "_").replace(" ", "_")
    if not (words / "tokenizer").exists():
        words.mkdir(parents=True)
        tokenizer.run(tokenizer.Settings(), {}, Context(words, name="words", seed=seed, run_seed=seed))
    out.mkdir(parents=True, exist_ok=True)
    settings = pretrain.Settings(steps=steps, precision="fp8" if arm in ALONE else arm, lr=lr)
    if not (out / "model" / TEMPLATE_FILE).exists():  # what is written last
        with only(*ALONE[arm]) if arm in ALONE else contextlib.nullcontext():
            pretrain.run(settings, {"tokenizer": words}, Context(out, name="base", seed=seed, run_seed=seed))
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [float(json.loads(line)["loss"]) for line in lines]
    if len(losses) != steps:
        raise SystemExit(f"{out} has {len(losses)} steps, asked for are {steps}: give another --runs")
    return losses


def smooth(values: Sequence[float]) -> list[float]:
    """The exponential moving average of weight 0.9 on the past, begun at the first value."""
    smoothed = [values[0]]
    for value in values[1:]:
        smoothed.append(SMOOTHING * smoothed[-1] + (1 - SMOOTHING) * value)
    return smoothed


def compare(losses: Sequence[float], baseline: Sequence[float]) -> dict[str, float]:
    """Relative differences of smoothed losses: at the end, on the mean of all steps, and the largest after a tenth."""
    gaps = [a / b - 1 for a, b in zip(smooth(losses), smooth(baseline), strict=True)]
    return {"last": gaps[-1], "mean": statistics.fmean(gaps), "largest": max(gaps[len(gaps) // 10 :], key=abs)}


def draw(found: dict[str, Any], path: Path) -> None:
    """Outliers, sums and, where there was training, the loss against BF16's."""
    with matplotlib.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(14, 3.6), layout="constrained")
        outliers, sums, *rest = figure.subplots(1, 3 if found["training"] else 2)
        factors = [row["factor"] for row in found["outliers"]]
        for key, mark, ink, label in (("tensor", "o-", PALETTE[1], "tensor"), ("tiles", "s-", PALETTE[0], "1 x 128")):
            outliers.plot(factors, [100 * row[key] for row in found["outliers"]], mark, color=ink, label=label)
        outliers.set(xscale="log", yscale="log", xlabel="size of one channel, times the others", ylabel="error, %")
        outliers.set_title("Rounding of the other channels, by scale", loc="left", fontsize=11)
        Ks = [row["K"] for row in found["sums"]]
        for key, mark, ink, label in (
            ("fp8", "o-", PALETTE[6], "rounding to FP8"),
            ("unpromoted", "s-", PALETTE[1], "14-bit sums"),
            ("promoted", "^-", PALETTE[0], "promoted every 128"),
        ):
            sums.plot(Ks, [100 * row[key] for row in found["sums"]], mark, color=ink, label=label)
        sums.set(xscale="log", yscale="log", xlabel="products summed (K)", ylabel="error, %")
        sums.set_title("A product's error, by source", loc="left", fontsize=11)
        for losses in rest:
            for place, training in enumerate(found["training"]):
                for arm, dashes in LINES.items():
                    if arm not in training["curves"]:
                        continue
                    pairs = zip(training["curves"][arm], training["curves"][BASELINE], strict=True)
                    gaps = [100 * (loss / baseline - 1) for loss, baseline in pairs]
                    label = f"{arm} (rate {training['lr']:g})"
                    losses.plot(training["curve_steps"], gaps, dashes, color=PALETTE[place], linewidth=1.4, label=label)
            losses.axhspan(-0.25, 0.25, color="#c9ced4", alpha=0.5, linewidth=0)
            losses.set(xlabel="step", ylabel="smoothed loss against BF16, %", ylim=(-1.5, 1.5))
            losses.set_title("The tiny base", loc="left", fontsize=11)
        for axes in (outliers, sums):
            axes.legend(frameon=False, fontsize=9)
        for losses in rest:
            losses.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000, help="0 leaves the training out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = options.runs or Path(tempfile.mkdtemp(prefix="fp8_"))
    found: dict[str, Any] = {
        "outliers": [measure_outlier(10.0**power) for power in range(7)],
        "sums": [measure_sum(2**power) for power in range(7, 14)],
        "processor_seconds_per_step": {arm: measure_step(arm) for arm in PRECISIONS},
    }
    for row in (*found["outliers"], *found["sums"], found["processor_seconds_per_step"]):
        print(json_text(row), flush=True)
    found["training"] = []
    for lr, arms in TRAININGS if options.steps else ():
        losses = {
            arm: train(arm, lr=lr, steps=options.steps, seed=options.seed, runs=runs) for arm in arms
        }
        kept = range(9, options.steps, 10)
        training = {
            "lr": lr,
            "steps": options.steps,
            "seed": options.seed,
            "loss": {arm: smooth(losses[arm])[-1] for arm in arms},
            "against_bf16": {arm: compare(losses[arm], losses[BASELINE]) for arm in arms if arm != BASELINE},
            "curve_steps": [step + 1 for step in kept],
            "curves": {arm: [round(smooth(losses[arm])[step], 6) for step in kept] for arm in arms},
        }
        found["training"].append(training)
        print(json_text({name: value for name, value in training.items() if "curve" not in name}), flush=True)
    found |= {"processor": processor_name(), "versions": versions("torch")}
    write_json_atomic(options.out / "measured" / "fp8.json", found)
    draw(found, options.out / "figures" / "fp8.png")


if __name__ == "__main__":
    main()
