"""Aha's side of benchmarks/rollout.py: ``AHA_KERNELS=off`` measures it with PyTorch alone."""

from __future__ import annotations

import gpu_clock
import torch
import turns

from aha.model.folder import load_model
from aha.rollout.engine import SamplingParams
from aha.rollout.native.engine import NativeEngine
from aha.util.allocator import keep_freed_pages


def main() -> None:
    folder, setting = turns.read_setting()
    prompts, lengths = setting["prompts"], setting["lengths"]
    keep_freed_pages()
    torch.set_num_threads(setting["threads"])
    decoder, config = load_model(folder)
    engine = NativeEngine(config, dtype=getattr(torch, setting["dtype"]), **setting["engine"])
    engine.load_weights(decoder, 0)
    del decoder
    params = SamplingParams(max(map(max, lengths)))
    runs = 0

    def run() -> None:
        nonlocal runs
        runs += 1
        seeds = [[runs << 32 | p << 16 | g for g in range(len(own))] for p, own in enumerate(lengths)]
        groups = engine.generate(prompts, seeds, params, limits=lengths)
        assert [[len(c.token_ids) for c in group] for group in groups] == lengths

    greedy = engine.generate(prompts, [[0]] * len(prompts), SamplingParams(1, temperature=0.0))
    measure = gpu_clock.measure if setting["device"] == "cuda" else turns.measure
    turns.take_turns(run, [completion.token_ids[0] for (completion,) in greedy], measure)


if __name__ == "__main__":
    main()
