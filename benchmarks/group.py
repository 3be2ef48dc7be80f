"""What a group costs to sample: twice as many samples of one prompt, and one prompt read for all of them.

    python -m benchmarks.group --threads 2

The small Qwen2, new tokens as in ``aha bench rollout``; 8 samples and 16, then a long prompt with one token of each of
16 samples and of one alone, in turn. Writes docs/measured/group.json.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from aha.model.decoder import build_decoder
from aha.rollout.engine import SamplingParams
from aha.rollout.native.engine import NativeEngine
from aha.rollout.sync import sync_weights
from aha.util.files import write_json_atomic
from benchmarks.setting import CONFIG, DTYPES, UNIFORM_TOKENS, Stopwatch, processor_name, versions

SAMPLES = (8, 16)
PROMPTS = (64, 512)
SHARED = 512  # tokens of the prompt that is read once for all


def measure_pairs(engine: NativeEngine, sizes: tuple[int, int], *, prompt: int, new: int, repeat: int) -> list[float]:
    """Wall seconds of the second number of samples by those of the first, ``repeat`` times in turn after one that does
    not count."""
    rng = random.Random(0)
    ids = [rng.randrange(1, CONFIG.vocab_size) for _ in range(prompt)]
    ratios = []
    for _ in range(repeat + 1):
        taken = []
        for samples in sizes:
            watch = Stopwatch()
            engine.generate([ids], [list(range(samples))], SamplingParams(new))
            taken.append(watch.read().wall)
        ratios.append(taken[1] / taken[0])
    return ratios[1:]


def measure_groups(*, threads: Sequence[int], repeat: int) -> list[dict[str, Any]]:
    """For each number type and of threads: the ratios of the doubled groups, and of the shared prompt."""
    rows: list[dict[str, Any]] = []
    for name, dtype in DTYPES.items():
        decoder = build_decoder(CONFIG, seed=0).to(dtype)
        for number in threads:
            torch.set_num_threads(number)
            engine = NativeEngine(CONFIG, dtype=dtype)
            sync_weights(engine, decoder, version=0)
            about = {"dtype": name, "threads": number}
            cases = [(SAMPLES, prompt, UNIFORM_TOKENS) for prompt in PROMPTS] + [((1, SAMPLES[-1]), SHARED, 1)]
            for sizes, prompt, new in cases:
                found = measure_pairs(engine, sizes, prompt=prompt, new=new, repeat=repeat)
                spread = {"median": statistics.median(found), "low": min(found), "high": max(found)}
                rows.append({**about, "samples": list(sizes), "prompt": prompt, "new": new, **spread})
                print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, action="append", help="this number, again for more (default: 1 and 2)")
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    rows = measure_groups(threads=arguments.threads or [1, 2], repeat=arguments.repeat)
    found = {
        "benchmark": "group", "rows": rows, "repeat": arguments.repeat, "processor": processor_name(),
        "versions": versions("torch"),
    }  # fmt: skip
    write_json_atomic(arguments.out / "measured" / "group.json", found)


if __name__ == "__main__":
    main()
