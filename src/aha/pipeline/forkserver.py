"""The process stages are forked from: it imports torch and the stages once, so that a start takes milliseconds."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

import aha
from aha.util.allocator import NO_SPLINTERS

IMPORTED_LATE = ("pandas",)
"""What pyarrow imports with its first table, which most stages write: 0.6 s, else in each of them."""


def stage_modules() -> list[str]:
    """The modules of ``aha.stages``, by name and without importing them."""
    folder = Path(aha.__file__).parent / "stages"
    return sorted(f"aha.stages.{path.stem}" for path in folder.glob("*.py") if path.stem != "__init__")


def start_forkserver(preload: Iterable[str]) -> ForkServerContext:
    """Starts the server unless it runs, returns at once (it imports in the background), and gives the context to use.

    Hashes of strings are fixed in all stages, so that the order of a set cannot differ from run to run.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *preload, *IMPORTED_LATE])
    with _environment_of_stages():
        forkserver.ensure_running()
    return context


@contextlib.contextmanager
def _environment_of_stages() -> Iterator[None]:
    """What the server passes on: fixed hashes, memory that stays whole, and deafness to Ctrl-C from the first moment,
    as only runners decide."""
    wanted = {"PYTHONHASHSEED": "1", "GLIBC_TUNABLES": NO_SPLINTERS}
    before = {name: os.environ.get(name) for name in wanted}
    if tunables := before["GLIBC_TUNABLES"]:
        wanted["GLIBC_TUNABLES"] = f"{tunables}:{NO_SPLINTERS}"
    os.environ.update(wanted)
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main else None
    try:
        yield
    finally:
        if in_main:
            signal.signal(signal.SIGINT, handler)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
