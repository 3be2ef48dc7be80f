"""What a run on a GPU took: until all its kernels have ended, and the most that tensors held."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def measure(run: Callable[[], None]) -> dict[str, float]:
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    torch.cuda.synchronize()
    taken = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    peak = torch.cuda.max_memory_allocated() / 2**20
    torch.cuda.empty_cache()  # the others' runs come now, on the same device
    return taken | {"peak": peak}
