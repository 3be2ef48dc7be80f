"""The GPU as a benchmark sees it: its clock, its memory, and what it can do at most.

Time is that of the wall until every kernel has ended, as the processor's says nothing of a GPU; memory is what tensors
have held at most, without what the allocator keeps for later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from aha.errors import SettingError, nearest
from benchmarks.setting import Peak, Stopwatch, Taken

DEVICES = ("cpu", "cuda")
READ_BYTES = 4 << 30  # far more than any cache of a GPU
PRODUCT_ROWS = 8_192


def check_device(device: str) -> None:
    """``SettingError`` for one that is unknown, or is not here."""
    if device not in DEVICES:
        raise SettingError(f"device is {device!r}: {nearest(device, DEVICES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingError(
            f"device is 'cuda', but PyTorch {torch.__version__} finds no GPU here: take cpu, or a machine with a GPU "
            "and a PyTorch that is built for it"
        )


class GpuStopwatch(Stopwatch):
    """Reads after all that was launched has ended."""

    def __init__(self) -> None:
        torch.cuda.synchronize()
        super().__init__()

    def read(self) -> Taken:
        torch.cuda.synchronize()
        return super().read()

    def seconds(self) -> float:
        return self.read().wall


class GpuPeak(Peak):
    """Peak of the memory of tensors, in MiB."""

    def __enter__(self) -> GpuPeak:
        torch.cuda.reset_peak_memory_stats()
        return self

    def __exit__(self, *_: object) -> None:
        self.mib = torch.cuda.max_memory_allocated() / 2**20


def engine_settings(device: str, num_rows: int) -> dict[str, Any]:
    """Of Aha's sampler: on a GPU so many rows live at once, in a cache of a quarter of the memory, as in a stage."""
    if device == "cpu":
        return {}
    memory = torch.cuda.get_device_properties(torch.device(device)).total_memory
    return {"device": device, "max_slots": num_rows, "cache_bytes": memory // 4}


def product_rate(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of a large matrix product, the best of several."""
    a, b = torch.randn(2, PRODUCT_ROWS, PRODUCT_ROWS, device=device).to(dtype)
    return 2 * PRODUCT_ROWS**3 / _least_seconds(lambda: torch.mm(a, b))


def read_rate(device: torch.device) -> float:
    """Bytes/s of reading far more than caches hold, the best of several."""
    numbers = torch.ones(READ_BYTES // 4, device=device)
    return numbers.nbytes / _least_seconds(lambda: numbers.sum())


def _least_seconds(run: Callable[[], object]) -> float:
    taken = []
    for _ in range(12):
        began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        began.record()
        run()
        ended.record()
        torch.cuda.synchronize()
        taken.append(began.elapsed_time(ended) / 1e3)
    return min(taken)
