"""Sampling speed: Aha's engine and ``transformers.generate`` with the same weights, prompts, lengths and thread.

Beside them what the machine allows: each prompt read once, each new token once, at the rate of large matrix products;
no step faster than its weights and cache can be read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from aha.errors import SettingError
from aha.model.config import ModelConfig
from aha.model.count import count_parameters
from aha.rollout.engine import SamplingParams
from aha.rollout.native.engine import NativeEngine
from benchmarks.setting import (
    CONFIG,
    DTYPES,
    NUM_SAMPLES,
    PROMPT_TOKENS,
    build_lengths,
    build_peer,
    build_policy,
    build_prompts,
    compare,
    describe,
    row,
    time_in_turn,
    versions,
)

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
    *, repeat: int, peers: bool, dtype: str, skew: bool, threads: int, shape: str = "T"
) -> dict[str, Any]:
    """Tokens per second of each side: useful tokens, those up to each sample's own length."""
    if shape not in SHAPES:
        raise SettingError(f"shape is {shape!r}; it must be one of {', '.join(SHAPES)}")
    torch.set_num_threads(threads)
    config, lengths = SHAPES[shape], build_lengths(skew=skew)
    tokens = sum(map(sum, lengths))
    sides = {"aha": build_aha(config, DTYPES[dtype], lengths)}
    if peers:
        sides["transformers.generate"] = build_transformers(config, DTYPES[dtype], lengths)
    found = time_in_turn(sides, repeat=repeat)
    rate, bandwidth = measure_machine(DTYPES[dtype], count_parameters(config) * DTYPES[dtype].itemsize)
    limit = tokens / least_seconds(config, DTYPES[dtype], lengths, rate=rate, bandwidth=bandwidth)
    rows = [
        row(name, [tokens / getattr(taken, clock) for taken in side.runs], unit=f"tokens/s{of}", peak=side.peak)
        for name, side in found.items()
        for clock, of in (("wall", ""), ("cpu", " of processor time"))
    ]
    shares = "  ".join(f"{r['name']} {100 * r['median'] / limit:.0f} % ({r['unit']})" for r in rows)
    return {
        "benchmark": "rollout",
        "setting": {"shape": shape}
        | describe(dtype=dtype, skew=skew, threads=threads, repeat=repeat, config=config),
        "rows": [*rows, row("limit of the machine", [limit], unit="tokens/s")],
        "ratios": compare(found),
        "notes": [
            f"limit: {rate / 1e9:.0f} GFLOP/s of a large product, {bandwidth / 1e9:.0f} GB/s over bytes as many as "
            f"the weights. Of it: {shares}"
        ],
        "versions": versions("torch", "transformers"),
    }


def measure_machine(dtype: torch.dtype, num_bytes: int) -> tuple[float, float]:
    """FLOP/s of a large matrix product, and bytes/s of reading ``num_bytes`` again and again; the best of several."""
    a, b = torch.randn(1024, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
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


def build_aha(config: ModelConfig, dtype: torch.dtype, lengths: list[list[int]]) -> Callable[[], None]:
    """One rollout; every run has seeds of its own, and each sample ends at its own length."""
    engine = NativeEngine(config, dtype=dtype)
    engine.load_weights(build_policy(dtype, config), 0)
    prompts, params = build_prompts(), SamplingParams(max(map(max, lengths)))
    runs = 0

    def run() -> None:
        nonlocal runs
        runs += 1
        seeds = [[runs << 32 | p << 16 | g for g in range(NUM_SAMPLES)] for p in range(len(prompts))]
        groups = engine.generate(prompts, seeds, params, limits=lengths)
        assert [[len(c.token_ids) for c in group] for group in groups] == lengths

    return run


def build_transformers(config: ModelConfig, dtype: torch.dtype, lengths: list[list[int]]) -> Callable[[], None]:
    """The same by ``generate``: one padded batch of 64 rows, a row is done at its own length."""
    from transformers import StoppingCriteria, StoppingCriteriaList

    model = build_peer(dtype, config)
    ids = torch.tensor(build_prompts())
    ends = PROMPT_TOKENS + torch.tensor([length for group in lengths for length in group])

    class OwnLength(StoppingCriteria):  # type: ignore[misc]
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
            return input_ids.shape[1] >= ends

    def run() -> None:
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            num_return_sequences=NUM_SAMPLES,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=int(ends.max()) - PROMPT_TOKENS,
            pad_token_id=0,
            eos_token_id=None,
            stopping_criteria=StoppingCriteriaList([OwnLength()]),
        )
        assert out.shape == (len(ends), int(ends.max()))

    return run
