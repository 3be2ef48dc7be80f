"""The process stages are forked from: it imports torch and the stages once, so that a start takes milliseconds."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

import aha


def stage_modules() -> list[str]:
    """The modules of ``aha.stages``, by name and without importing them."""
    folder = Path(aha.__file__).parent / "stages"
    return sorted(f"aha.stages.{path.stem}" for path in folder.glob("*.py") if path.stem != "__init__")


def start_forkserver(preload: Iterable[str]) -> ForkServerContext:
    """Starts the server unless it runs, returns at once (it imports in the background), and gives the context to use.

    Hashes of strings are fixed in all stages, so that the order of a set cannot differ from run to run.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *preload])
    before = os.environ.get("PYTHONHASHSEED")
    os.environ["PYTHONHASHSEED"] = "1"
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONHASHSEED"]
        else:
            os.environ["PYTHONHASHSEED"] = before
    return context
