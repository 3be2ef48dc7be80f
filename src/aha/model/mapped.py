"""A frozen copy of a decoder whose weights lie in a file: a layer of it is in memory only while that layer computes.

So a reference takes almost none of the memory of a step. The system keeps of the file what it has room for.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path

import torch

from aha.errors import DataError
from aha.model.decoder import Decoder, build_empty_decoder


class MappedDecoder:
    """``decoder`` may be read, and written to, as any; :meth:`release` when it has been."""

    def __init__(self, source: Decoder, folder: Path) -> None:
        """A copy of ``source``, which is on a CPU, in a nameless file in ``folder``, gone when the process is.
        ``DataError`` where the disk has no room for it."""
        self.decoder = build_empty_decoder(source.config, dtype=source.head_weight.dtype, device="meta")
        tensors = dict(source.named_parameters()) | dict(source.named_buffers())
        with tempfile.TemporaryFile(dir=folder) as file:
            _reserve(file.fileno(), sum(_padded(tensor.nbytes) for tensor in tensors.values()), folder)
            self._pages = mmap.mmap(file.fileno(), 0)
        offset, mapped = 0, {}
        for name, tensor in tensors.items():
            flat = torch.frombuffer(self._pages, dtype=tensor.dtype, count=tensor.numel(), offset=offset)
            mapped[name] = flat.view(tensor.shape).copy_(tensor.detach())
            offset += _padded(tensor.nbytes)
        self.decoder.load_state_dict(mapped, strict=False, assign=True)
        self.decoder.tie()
        self.decoder.requires_grad_(False)
        for layer in self.decoder.body_layers():
            layer.register_forward_hook(lambda *_: self.release())
        self.release()

    def release(self) -> None:
        """Its pages leave this process's memory; what was written to them stays written."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._pages.madvise(mmap.MADV_DONTNEED)


def _reserve(file: int, size: int, folder: Path) -> None:
    # A file with holes would do until the disk is full: a write to a hole is then a bus error, which nothing catches.
    reserve = os.posix_fallocate if hasattr(os, "posix_fallocate") else lambda file, _, size: os.truncate(file, size)
    try:
        reserve(file, 0, size)
    except OSError as error:
        raise DataError(
            f"{folder}: no room for the {size / 2**20:,.0f} MiB of a reference ({error.strerror}): free some, or "
            f"set beta to 0, which needs none"
        ) from error


def _padded(size: int) -> int:
    return -(-size // 64) * 64
