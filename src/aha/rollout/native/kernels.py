"""Builds and loads ``kernels.c`` with the machine's own C compiler: seconds on first use, then a file in the cache.

Without a compiler, or with ``AHA_KERNELS=off``, there are none, and the sampler computes the same with PyTorch alone.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from torch import Tensor

SOURCE = Path(__file__).with_name("kernels.c")
_FLAGS = ("-O2", "-ftree-vectorize", "-ffp-contract=fast", "-fno-math-errno", "-fno-strict-aliasing")
_CHOICES = (("-march=native", "-fopenmp"), ("-march=native",), ("-mcpu=native",), ())  # the first that compiles
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
        *((name, _INT) for name in ("half", "layers", "D", "V", "N", "K", "H", "F")),
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
        self.sample = library.sample
        self.sample.argtypes = [_POINTER, _INT, _INT, ctypes.c_float, *[_POINTER] * 4, _INT]
        for function in (self.forward, self.read_logits, self.sample):
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
    """The kernels, built if need be; ``None``, said once on standard error, where they cannot be or shall not be."""
    try:
        return _load()
    except (OSError, subprocess.SubprocessError) as error:
        print(f"sampling without compiled kernels, about half as fast: {error}", file=sys.stderr)
        return None


def _load() -> Kernels:
    if os.environ.get("AHA_KERNELS") == "off":
        raise OSError("AHA_KERNELS=off")
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if sys.platform == "win32" or compiler is None:
        raise OSError("there is no C compiler (cc, gcc or clang)")
    target = _cache_folder() / f"kernels-{_fingerprint(compiler)}.so"
    if not target.exists():
        _build(compiler, target)
    return Kernels(ctypes.CDLL(str(target)))


def _cache_folder() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aha"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _fingerprint(compiler: str) -> str:
    """Of the source, how it is compiled, and the processor it is compiled for."""
    cpu = platform.machine() + platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        wanted = ("model name", "flags", "Features", "CPU part")
        cpu += "".join(sorted({line for line in info.read_text().splitlines() if line.startswith(wanted)}))
    parts = (SOURCE.read_text(), repr((_FLAGS, _CHOICES)), str(Path(compiler).resolve()), cpu)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _build(compiler: str, target: Path) -> None:
    # Built beside its place and moved there, so that two processes that begin at once do not read half a file.
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / "kernels.so"
        for choice in _CHOICES:
            done = subprocess.run(
                [compiler, *_FLAGS, "-shared", "-fPIC", *choice, str(SOURCE), "-o", str(made), "-lm"],
                capture_output=True,
                text=True,
                timeout=300,
            )
            if done.returncode == 0:
                made.replace(target)
                return
    raise OSError(f"{compiler} does not compile {SOURCE.name}: {done.stderr.strip()[-300:]}")
