"""Sampling speed: Aha's engine and ``transformers.generate`` with the same weights, prompts, lengths and thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

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


def measure(*, repeat: int, peers: bool, dtype: str, skew: bool, threads: int) -> dict[str, Any]:
    """Tokens per second of each side: useful tokens, those up to each sample's own length."""
    torch.set_num_threads(threads)
    lengths = build_lengths(skew=skew)
    tokens = sum(map(sum, lengths))
    sides = {"aha": build_aha(DTYPES[dtype], lengths)}
    if peers:
        sides["transformers.generate"] = build_transformers(DTYPES[dtype], lengths)
    found = time_in_turn(sides, repeat=repeat)
    rows = [
        row(name, [tokens / taken.wall for taken in side.runs], unit="tokens/s", peak=side.peak)
        for name, side in found.items()
    ]
    return {
        "benchmark": "rollout",
        "setting": describe(dtype=dtype, skew=skew, threads=threads, repeat=repeat),
        "rows": rows,
        "ratios": compare(found),
        "notes": [],
        "versions": versions("torch", "transformers"),
    }


def build_aha(dtype: torch.dtype, lengths: list[list[int]]) -> Callable[[], None]:
    """One rollout; every run has seeds of its own, and each sample ends at its own length."""
    engine = NativeEngine(CONFIG, dtype=dtype)
    engine.load_weights(build_policy(dtype), 0)
    prompts, params = build_prompts(), SamplingParams(max(map(max, lengths)))
    runs = 0

    def run() -> None:
        nonlocal runs
        runs += 1
        seeds = [[runs << 32 | p << 16 | g for g in range(NUM_SAMPLES)] for p in range(len(prompts))]
        groups = engine.generate(prompts, seeds, params, limits=lengths)
        assert [[len(c.token_ids) for c in group] for group in groups] == lengths

    return run


def build_transformers(dtype: torch.dtype, lengths: list[list[int]]) -> Callable[[], None]:
    """The same by ``generate``: one padded batch of 64 rows, a row is done at its own length."""
    from transformers import StoppingCriteria, StoppingCriteriaList

    model = build_peer(dtype)
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
