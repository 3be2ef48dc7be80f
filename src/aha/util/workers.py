"""Run a function on untrusted input in processes that can be killed, with a deadline and a memory limit for each job.

Signals are no substitute: an alarm works in the main thread only, cannot interrupt C code, and where it cannot be set
some libraries answer "wrong" to everything.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import aha
from aha.errors import VerifierError

START_SECONDS = 120.0


class End(StrEnum):
    """How a job ended."""

    DONE = "done"
    RAISED = "raised"  # the function raised
    MEMORY = "out of memory"
    TIMEOUT = "out of time"
    CRASHED = "crashed"  # the process died of it, twice
    KILLED = "killed"  # twice somebody else killed the process


@dataclass(frozen=True, slots=True)
class Outcome:
    """``Outcome(End.DONE, 42)``, or what went wrong as ``note``."""

    end: End
    value: Any = None
    note: str = ""


class Workers:
    """Processes that call ``function`` (``"package.module:name"``; JSON in, JSON out), started when first needed.

    A process is replaced after ``lifetime`` jobs, as caches grow, and after every failure. A job whose process dies is
    given to a second one before it is blamed. Jobs run for ``deadline`` seconds of the wall clock and ``memory`` bytes
    of address space at most.
    """

    def __init__(
        self, function: str, *, size: int | None = None, deadline: float, memory: int = 2 << 30, lifetime: int = 2_000
    ) -> None:
        self.function, self.deadline, self.memory, self.lifetime = function, deadline, memory, lifetime
        self.size = size or max(1, min(4, os.cpu_count() or 1))
        self.started = 0
        self._idle: list[_Worker] = []
        self._owner = os.getpid()
        self._lock = threading.Lock()
        atexit.register(self.close)

    def run(self, jobs: Sequence[Sequence[Any]]) -> list[Outcome]:
        """The outcome of ``function(*job)`` for each job, in their order. Safe to call from any thread.

        ``VerifierError`` when no process can be started, which is no fault of any job.
        """
        with self._lock:
            if self._owner != os.getpid():  # a fork: the processes are the parent's
                self._idle, self._owner = [], os.getpid()
            batch = _Batch(self, jobs)
            try:
                return batch.run()
            finally:
                batch.stop()  # an interrupt leaves jobs under way, whose replies nobody would fetch

    def close(self) -> None:
        """End all processes; the next ``run`` starts new ones."""
        with self._lock:
            if self._owner == os.getpid():
                for worker in self._idle:
                    worker.kill()
                self._idle = []

    def _take(self) -> _Worker:
        if self._idle:
            return self._idle.pop()
        self.started += 1
        return _Worker(self.function, self.memory, self.deadline)

    def _give_back(self, worker: _Worker) -> None:
        if worker.jobs < self.lifetime:
            self._idle.append(worker)
        else:
            worker.kill()


class _Worker:
    """One process and its two pipes."""

    def __init__(self, function: str, memory: int, deadline: float) -> None:
        path = os.pathsep.join(filter(None, [str(Path(aha.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "aha.util.worker", function, str(memory), str(deadline)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for us to handle
        )
        self.ready = False
        self.jobs = 0
        self.read = b""

    def send(self, job: Sequence[Any]) -> None:
        assert self.process.stdin
        self.jobs += 1
        with contextlib.suppress(BrokenPipeError):  # its end is noticed where its reply is awaited
            self.process.stdin.write(json.dumps(list(job)).encode() + b"\n")
            self.process.stdin.flush()

    def receive(self) -> list[dict[str, Any]] | None:
        """Whole replies that have come; ``None`` when the process is gone. Called when there is something to read."""
        assert self.process.stdout
        piece = os.read(self.process.stdout.fileno(), 1 << 16)
        if not piece:
            return None
        *lines, self.read = (self.read + piece).split(b"\n")
        return [json.loads(line) for line in lines]

    def kill(self) -> int:
        """End the process if it has not ended; its exit code."""
        self.process.kill()
        code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        return code


class _Batch:
    """The jobs of one ``run`` on their way through the processes."""

    def __init__(self, pool: Workers, jobs: Sequence[Sequence[Any]]) -> None:
        self.pool, self.jobs = pool, jobs
        self.waiting = deque(range(len(jobs)))
        self.outcomes: dict[int, Outcome] = {}
        self.deaths = [0] * len(jobs)
        self.busy: dict[_Worker, tuple[int, float]] = {}
        self.selector = selectors.DefaultSelector()

    def run(self) -> list[Outcome]:
        while self.waiting or self.busy:
            while self.waiting and len(self.busy) < self.pool.size:
                self._assign(self.pool._take(), self.waiting.popleft())
            wait = min(expires for _, expires in self.busy.values()) - time.monotonic()
            for key, _ in self.selector.select(max(0.0, wait)):
                self._read(key.data)
            now = time.monotonic()
            for worker, (job, expires) in list(self.busy.items()):
                if expires <= now and not worker.ready:
                    raise self._no_process(f"it is not ready after {START_SECONDS:g} s")
                if expires <= now:
                    self._lose(worker)
                    self.outcomes[job] = Outcome(End.TIMEOUT, note=f"no reply in {self.pool.deadline:g} s")
        return [self.outcomes[job] for job in range(len(self.jobs))]

    def stop(self) -> None:
        for worker in list(self.busy):
            self._lose(worker)
        self.selector.close()

    def _assign(self, worker: _Worker, job: int) -> None:
        self.busy[worker] = job, time.monotonic() + (self.pool.deadline if worker.ready else START_SECONDS)
        self.selector.register(worker.process.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]
        worker.send(self.jobs[job])

    def _read(self, worker: _Worker) -> None:
        job, _ = self.busy[worker]
        replies = worker.receive()
        if replies is None:
            self._bury(worker, job)
        for reply in replies or []:
            if "ready" in reply:
                worker.ready = True
                self.busy[worker] = job, time.monotonic() + self.pool.deadline
            elif "value" in reply or "raised" in reply:
                self._release(worker)
                self.pool._give_back(worker)
                end = End.DONE if "value" in reply else End.RAISED
                self.outcomes[job] = Outcome(end, reply.get("value"), reply.get("raised", ""))
            elif "memory" in reply:
                self._lose(worker)
                self.outcomes[job] = Outcome(End.MEMORY, note=f"more than {self.pool.memory >> 20} MiB")
            else:
                raise self._no_process(reply["broken"])

    def _bury(self, worker: _Worker, job: int) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(5.0)  # its pipe is closed a moment before it has an exit code of its own
        code = self._lose(worker)
        self.deaths[job] += 1
        if self.deaths[job] < 2:
            self.waiting.appendleft(job)
        elif not worker.ready:
            raise self._no_process(f"it ends at its start with code {code}")
        else:
            end = End.KILLED if code in (-2, -9, -15) else End.CRASHED  # SIGINT, SIGKILL, SIGTERM come from outside
            self.outcomes[job] = Outcome(end, note=f"the process ended with code {code}")

    def _no_process(self, why: str) -> VerifierError:
        return VerifierError(f"no process for {self.pool.function} can be started: {why}")

    def _release(self, worker: _Worker) -> None:
        del self.busy[worker]
        self.selector.unregister(worker.process.stdout)  # type: ignore[arg-type]

    def _lose(self, worker: _Worker) -> int:
        self._release(worker)
        return worker.kill()
