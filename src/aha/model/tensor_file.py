"""Safetensors files: written tensor by tensor, so that a model is never twice in memory; headers read without weights.

The format: 8 bytes with the length of a JSON header, the header, then all bytes in its order. The library reads it; it
can write only what it holds as bytes all at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from aha.errors import CheckpointError

_TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8",
}  # fmt: skip
TYPES = {name: dtype for dtype, name in _TYPES.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """What the header of ``file`` says of one tensor; ``dtype`` is the format's name of it."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor that is to be written and is made only then."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def write_tensors(path: Path, tensors: Mapping[str, Planned]) -> None:
    """Writes a file that is whole or absent, one tensor in memory at a time."""
    ordered = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)  # so that each is aligned
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, planned in ordered:
        start, end = end, end + planned.num_bytes
        header[name] = {"dtype": _TYPES[planned.dtype], "shape": list(planned.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name, planned in ordered:
                tensor = planned.make().detach().to(planned.dtype).contiguous().cpu()
                assert tuple(tensor.shape) == planned.shape, name
                file.write(tensor.flatten().view(torch.uint8).numpy().data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_tensors_atomic(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file that is whole or absent."""
    write_tensors(path, {name: Planned(t.dtype, tuple(t.shape), lambda t=t: t) for name, t in tensors.items()})  # type: ignore[misc]


def load_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors of a small safetensors file, which must be exactly ``shapes``; else ``CheckpointError``."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    found = {name: entry.shape for name, entry in read_header(path).items()}
    if found != dict(shapes):
        raise CheckpointError(f"{path}: holds {found}, expected {dict(shapes)}")
    with open_tensors(path) as tensors:
        return {name: tensors.get_tensor(name) for name in shapes}


def read_header(file: Path) -> dict[str, Entry]:
    """Every tensor of a file, without its values; ``CheckpointError`` when the file is cut or no such file."""
    found = {}
    with open_tensors(file) as tensors:
        for name in tensors.keys():  # noqa: SIM118
            view = tensors.get_slice(name)
            found[name] = Entry(file, view.get_dtype(), tuple(view.get_shape()))
    return found


@contextmanager
def open_tensors(file: Path) -> Iterator[Any]:
    """A safetensors file; a broken one is a ``CheckpointError``."""
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except SafetensorError as error:
        raise CheckpointError(f"{file}: not a whole safetensors file ({error})") from None
