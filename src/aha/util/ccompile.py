"""C functions built with the machine's own compiler: seconds on first use, then a file in the user's cache.

Whoever asks for them must be able to do without: there may be no compiler, and ``AHA_KERNELS=off`` turns them off.
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

_FLAGS = (  # -O3 makes no faster code of these files, in twice the time
    *("-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic", "-shared", "-fPIC"),
    *("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fno-strict-aliasing"),
)
_SHARED = Path(__file__).with_name("vectors.h")
_CHOICES = (  # the first that compiles; a sum in the order that vectors want needs openmp-simd
    ("-march=native", "-fopenmp"),
    ("-march=native", "-fopenmp-simd"),
    ("-mcpu=native", "-fopenmp-simd"),
    ("-fopenmp-simd",),
)


@functools.cache
def load_library(source: Path) -> ctypes.CDLL | None:
    """The functions of a C file, built if need be; ``None``, said once on standard error, where there cannot be any."""
    if os.environ.get("AHA_KERNELS") == "off":
        return None
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if sys.platform == "win32" or compiler is None:
        _say_why(source, "there is no C compiler")
        return None
    try:
        target = _cache_folder() / f"{source.stem}-{_fingerprint(source, compiler)}.so"
        if not target.exists():
            _build(source, compiler, target)
        return ctypes.CDLL(str(target))
    except (OSError, subprocess.SubprocessError) as error:
        _say_why(source, str(error))
        return None


def _say_why(source: Path, why: str) -> None:
    print(f"slower, without the compiled {source.name}: {why}", file=sys.stderr)


def _cache_folder() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aha"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _fingerprint(source: Path, compiler: str) -> str:
    """Of the source and what it may include, how it is compiled, and the processor it is compiled for."""
    cpu = platform.machine() + platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        wanted = ("model name", "flags", "Features", "CPU part")
        cpu += "".join(sorted({line for line in info.read_text().splitlines() if line.startswith(wanted)}))
    texts = [path.read_text(encoding="utf-8") for path in (source, _SHARED)]
    parts = (*texts, repr((_FLAGS, _CHOICES)), str(Path(compiler).resolve()), cpu)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _build(source: Path, compiler: str, target: Path) -> None:
    # Built beside its place and moved there, so that two processes that begin at once do not read half a file.
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        for choice in _CHOICES:
            done = subprocess.run(
                [compiler, *_FLAGS, *choice, f"-I{_SHARED.parent}", str(source), "-o", str(made), "-lm"],
                capture_output=True,
                text=True,
                timeout=300,
            )
            if done.returncode == 0:
                made.replace(target)
                return
    raise OSError(f"{compiler} does not compile {source.name}: {done.stderr.strip()[-300:]}")
