"""The functions of ``kernels.c`` and the structures they read.

Without a compiler, or with ``AHA_KERNELS=off``, there are none, and the sampler computes the same with PyTorch alone.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

from torch import Tensor

from aha.util.ccompile import load_library

SOURCE = Path(__file__).with_name("kernels.c")
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64


class LayerPointers(ctypes.Structure):
    """``Layer`` of kernels.c."""

    _fields_ = [
        *((name, _POINTER) for name in ("norm", "qkv_bias", "query_norm", "key_norm", "out_bias", "feed_norm")),
        *((name, _POINTER) for name in ("qkv", "out", "gate_up", "down")),
    ]


class ModelPointers(ctypes.Structure):
    """``Model`` of kernels.c."""

    _fields_ = [
        *((name, _INT) for name in ("half", "int8", "layers", "D", "V", "N", "K", "H", "F")),
        ("eps", ctypes.c_float),
        *((name, _POINTER) for name in ("embedding", "head", "norm", "cos", "sin")),
        ("layer", ctypes.POINTER(LayerPointers)),
        *((name, _POINTER) for name in ("x", "qkv", "normed", "query", "read", "act")),
    ]


class RowPointers(ctypes.Structure):
    """``Rows`` of kernels.c."""

    _fields_ = [
        (name, _POINTER) for name in ("token", "position", "own", "own_cols", "past", "past_cols", "past_length")
    ]


class StatePointers(ctypes.Structure):
    """``State`` of kernels.c."""

    _fields_ = [
        *((name, _POINTER) for name in ("token", "position", "count", "seed", "limit", "out_token", "out_logprob")),
        ("ld", _INT),
        ("flags", _POINTER),
    ]


class Kernels:
    """The functions of kernels.c."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.forward = library.forward
        self.forward.argtypes = [ctypes.POINTER(ModelPointers), _INT, ctypes.POINTER(RowPointers), _INT, _INT]
        self.read_logits = library.read_logits
        self.read_logits.argtypes = [ctypes.POINTER(ModelPointers), _INT, _POINTER, _POINTER, _INT]
        self.multiply_int8 = library.multiply_int8
        self.multiply_int8.argtypes = [_INT, _INT, _INT, _POINTER, _POINTER, _POINTER]
        self.copy_cache = library.copy_cache
        self.copy_cache.argtypes = [ctypes.POINTER(ModelPointers), _INT, _POINTER]
        self.sample = library.sample
        self.sample.argtypes = [
            *(_POINTER, _INT, _INT),
            *(ctypes.c_float, _INT, ctypes.c_double),
            *(_POINTER, _POINTER, _POINTER, _POINTER, _INT),
        ]
        for function in (self.forward, self.read_logits, self.multiply_int8, self.copy_cache, self.sample):
            function.restype = None
        self.record = library.record
        self.record.argtypes = [ctypes.POINTER(StatePointers), _INT, *[_POINTER] * 3]
        self.record.restype = _INT
        library.vector_lanes.restype = _INT
        self.lanes = int(library.vector_lanes())  # VL of kernels.c
        self.panel = 2 * self.lanes  # NR


def address(tensor: Tensor | None) -> int | None:
    """Where the numbers of a contiguous tensor begin."""
    assert tensor is None or tensor.is_contiguous()
    return None if tensor is None else tensor.data_ptr()


@functools.cache
def load_kernels() -> Kernels | None:
    """The kernels, built if need be; ``None`` where they cannot be or shall not be (``util/ccompile.py``)."""
    library = load_library(SOURCE)
    return Kernels(library) if library is not None else None
