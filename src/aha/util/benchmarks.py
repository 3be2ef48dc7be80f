"""Finding a benchmark: a file of ``benchmarks/`` with a function ``measure``, in the source checkout alone."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import aha
from aha.errors import UsageError, nearest


def load_benchmark(name: str) -> Callable[..., dict[str, Any]]:
    """``measure`` of ``benchmarks/NAME.py``. ``UsageError`` offers the nearest name, or says where benchmarks are."""
    checkout = Path(aha.__file__).resolve().parents[2]
    folder = checkout / "benchmarks"
    known = [path.stem for path in folder.glob("*.py") if _is_benchmark(path)]
    if not known:
        raise UsageError(f"{folder} has no benchmarks: they come with the source checkout, not with the package alone")
    if name not in known:
        raise UsageError(f"no benchmark {name!r}: {nearest(name, known)}")
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    module = importlib.import_module(f"benchmarks.{name}")
    return cast("Callable[..., dict[str, Any]]", module.measure)


def _is_benchmark(path: Path) -> bool:
    return "\ndef measure(" in path.read_text(encoding="utf-8")
