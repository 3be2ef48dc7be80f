"""The process of one stage: started by the runner, it works in the partial folder and reports through a pipe."""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import fcntl
import os
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from aha.config import Frozen
from aha.errors import AhaError
from aha.pipeline.graph import StageFunction
from aha.pipeline.lineage import write_lineage
from aha.records import StageResult
from aha.stages.context import Context, Interrupted
from aha.util.allocator import keep_freed_pages
from aha.util.files import write_json_atomic

STOP = "stop"
"""What a runner sends to ask for a stop."""


@dataclass(frozen=True)
class Job:
    """Everything a stage's process needs to know."""

    name: str
    run: StageFunction
    settings: Frozen
    inputs: Mapping[str, Path]
    out: Path
    seed: int
    run_seed: int
    threads: int


def work(job: Job, connection: Connection) -> None:
    """Runs one stage in ``job.out`` and sends its end: ``("done",)``, ``("stopped",)`` or ``("failed", message)``."""
    stop = threading.Event()
    threading.Thread(target=_listen, args=(connection, stop), daemon=True).start()
    lock = os.open(job.out, os.O_RDONLY)  # held until the process ends: a later runner waits for it
    fcntl.flock(lock, fcntl.LOCK_EX)
    _redirect_output(job.out / "output.log")
    torch.set_num_threads(job.threads)
    keep_freed_pages()
    context = Context(job.out, name=job.name, seed=job.seed, run_seed=job.run_seed, send=connection.send, stop=stop)
    message = _run(job, context)
    with contextlib.suppress(OSError):  # the runner is gone: the next one finds what is in the folder
        connection.send(message)


def _listen(connection: Connection, stop: threading.Event) -> None:
    """A thread of its own, so that a killed runner takes its stages along even in the middle of a long step."""
    try:
        while True:
            if connection.recv() == STOP:
                stop.set()
    except (EOFError, OSError):
        os._exit(1)  # nobody will take the result; the next run continues from the saved state


def _run(job: Job, context: Context) -> tuple[str, ...]:
    try:
        result = job.run(job.settings, job.inputs, context)
        assert isinstance(result, StageResult), f"stage {job.name} returned {type(result).__name__}, not StageResult"
        kind = job.run.__module__.rpartition(".")[2]
        write_lineage(job.name, kind, job.settings, job.seed, job.inputs, job.out, result.metrics)
        write_json_atomic(job.out / "result.json", {"metrics": result.metrics})
    except Interrupted:
        return ("stopped",)
    except AhaError as error:
        return ("failed", str(error))
    except OSError as error:
        return ("failed", describe_os_error(error, job.out) or _write_traceback(job.out))
    except Exception:
        return ("failed", _write_traceback(job.out))
    return ("done",)


def describe_os_error(error: OSError, path: Path) -> str | None:
    """A message for an error of the machine rather than of the program, such as a full disk; else None."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on the disk of {path}: free some and run the same command again to continue"
    return None


def _write_traceback(out: Path) -> str:
    last = traceback.format_exception_only(*sys.exc_info()[:2])[-1].strip()
    with contextlib.suppress(OSError):
        (out / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
    return f"{last} (traceback in {out / 'error.txt'})"


def _redirect_output(path: Path) -> None:
    """Warnings and prints of libraries go to a file: the terminal belongs to the runner."""
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable(file=sys.__stderr__ or sys.stderr)
