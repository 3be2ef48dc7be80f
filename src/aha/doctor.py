"""Whether this machine can run Aha: one finding a row, each with what was found and what to do about it."""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from aha.reward.sandbox import find_layers
from aha.util.cores import usable_cores
from aha.util.memory import total_memory

NEEDED = (
    "torch",
    "safetensors",
    "tokenizers",
    "transformers",
    "pydantic",
    "typer",
    "rich",
    "pyarrow",
    "matplotlib",
    "numpy",
    "gguf",
)
MIN_MEMORY_GIB = 4.0
MIN_DISK_GIB = 2.0
GIB = 2**30


@dataclass(frozen=True)
class Check:
    """One finding: ``Check("memory", True, "24.0 GiB")``."""

    name: str
    ok: bool
    found: str


def check_machine() -> list[Check]:
    """All findings; a missing accelerator is none to worry about."""
    return [
        Check("python", sys.version_info >= (3, 11), f"{sys.version.split()[0]} (3.11 or later is needed)"),
        *(_check_package(name) for name in NEEDED),
        _check_arithmetic(),
        Check("accelerator", True, _name_accelerator()),
        Check("cores", True, str(usable_cores())),
        _check_memory(),
        _check_disk(Path.cwd()),
        _check_process(),
        _check_sandbox(),
    ]


def _check_package(name: str) -> Check:
    try:
        return Check(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, False, f"not installed: pip install {name}")


def _check_arithmetic() -> Check:
    try:
        import torch  # here, so that its absence is a finding
    except ImportError as missing:
        return Check("matrix product", False, f"torch cannot be imported: {missing}")
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(64, 64, generator=generator)
    error = (left @ left - (left.double() @ left.double()).float()).abs().max().item()
    return Check("matrix product", error < 1e-3, f"largest error {error:.1e} in float32")


def _name_accelerator() -> str:
    try:
        import torch
    except ImportError:
        return "unknown without torch"
    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return "none; the toy recipes need none"


def _check_memory() -> Check:
    found = total_memory()
    if found is None:
        return Check("memory", True, "unknown")
    gib = found / GIB
    return Check("memory", gib >= MIN_MEMORY_GIB, f"{gib:.1f} GiB ({MIN_MEMORY_GIB:.0f} are needed)")


def _check_disk(folder: Path) -> Check:
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check("disk", False, f"{folder} cannot be written: {error.strerror}")
    gib = shutil.disk_usage(folder).free / GIB
    return Check("disk", gib >= MIN_DISK_GIB, f"{gib:.1f} GiB free in {folder} ({MIN_DISK_GIB:.0f} are needed)")


def _check_process() -> Check:
    process = multiprocessing.get_context("forkserver").Process(target=os.getpid)
    process.start()
    process.join(60)
    if process.is_alive():
        process.kill()
    return Check("starting a stage's process", process.exitcode == 0, f"exit code {process.exitcode}")


def _check_sandbox() -> Check:
    """Only problems of task ``code`` need it: a missing layer is said, and is nothing to worry about otherwise."""
    layers = find_layers()
    active = ", ".join(layer.name for layer in layers if not layer.missing) or "nothing"
    missing = "; ".join(f"no {layer.name}: {layer.missing}" for layer in layers if layer.missing)
    found = f"{active} ({missing}; programs of a model are refused)" if missing else active
    return Check("sandbox for programs", True, found)
