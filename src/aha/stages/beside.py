"""Work beside the caller's own, such as the sampling of a step while the one before it is learned."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


class Beside:
    """A thread, and on a GPU a stream: compiled kernels and PyTorch's leave the interpreter to the other thread."""

    def __init__(self, device: torch.device) -> None:
        self._thread = ThreadPoolExecutor(1)
        on_gpu = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]

    def begin(self, work: Callable[[], T]) -> Future[T]:
        """Starts ``work`` behind all that the caller's stream has been given so far. When the result is there, nothing
        of it is still being computed. The process ends after the work, also where the caller has failed meanwhile."""
        if self._stream is None:
            return self._thread.submit(work)
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        return self._thread.submit(self._on_stream, self._stream, work)

    @staticmethod
    def _on_stream(stream: torch.cuda.Stream, work: Callable[[], T]) -> T:
        with torch.cuda.stream(stream):
            done = work()
        stream.synchronize()
        return done
