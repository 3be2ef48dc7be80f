"""A frozen copy of a decoder whose weights lie in a file: a layer of it is in memory only while that layer computes.

So a reference takes almost none of the memory of a step. The system keeps of the file what it has room for.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path

import torch

from aha.model.decoder import Decoder, build_empty_decoder


class MappedDecoder:
    """``decoder`` may be read, and written to, as any; :meth:`release` when it has been."""

    def __init__(self, source: Decoder, folder: Path) -> None:
        """A copy of ``source``, which is on a CPU, in a nameless file in ``folder``, gone when the process is."""
        self.decoder = build_empty_decoder(source.config, dtype=source.head_weight.dtype, device="meta")
        tensors = dict(source.named_parameters()) | dict(source.named_buffers())
        with tempfile.TemporaryFile(dir=folder) as file:
            os.truncate(file.fileno(), sum(_padded(tensor.nbytes) for tensor in tensors.values()))
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


def _padded(size: int) -> int:
    return -(-size // 64) * 64
