"""Runs what a plan says, each stage in a process of its own, so that a crash at any point leaves a run to continue.

A stage works in ``<name>.partial`` and becomes ``<name>`` by one rename. The ledger is written before a folder is begun
and after it is renamed; what it says is therefore never ahead of the disk. A stage that starts over finds an empty
folder, but for answers that an endpoint was paid for.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing import connection as connections
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from types import FrameType

import torch

from aha.errors import AhaError, StageFailed
from aha.pipeline.display import Display, Running, format_seconds
from aha.pipeline.forkserver import stage_modules, start_forkserver
from aha.pipeline.graph import Pipeline, describe
from aha.pipeline.ledger import Entry, Ledger, StageStatus
from aha.pipeline.plan import LOCK, Planned, check_folder, make_plan
from aha.pipeline.worker import STOP, Job, describe_os_error, work
from aha.stages.paid import paid_ledgers
from aha.util.cores import usable_cores
from aha.util.files import write_bytes_atomic, write_json_atomic

TICK = 0.2
"""Seconds between two looks at the stages."""
LEDGER_EVERY = 5.0
"""Seconds between two notes of the time spent, which is what a killed runner loses."""
ORPHAN_DEADLINE = 30.0
"""Seconds to wait for a stage of a killed runner to die."""


class Stopped(AhaError):
    """The run was stopped by a person; the same command continues it."""


def default_jobs(threads: int) -> int:
    """Stages at once when nothing is said: as many as the cores can give ``threads`` each, at most 4; one where there
    is a GPU, whose memory stages side by side would have to share."""
    if torch.cuda.is_available():
        return 1
    return max(1, min(4, usable_cores() // threads))


def plan_run(
    pipeline: Pipeline, run: Path, *, only: Collection[str] = (), redo_from: Collection[str] = ()
) -> list[Planned]:
    """What ``run_pipeline`` would do; writes nothing."""
    check_folder(pipeline, run)
    return make_plan(pipeline, run, Ledger(run), only=only, redo_from=redo_from)


def run_pipeline(
    pipeline: Pipeline,
    run: Path,
    *,
    display: Display,
    jobs: int,
    only: Collection[str] = (),
    redo_from: Collection[str] = (),
) -> None:
    """Does what is missing in ``run``, continues what is partial, redoes what is stale.

    Raises ``StageFailed`` when a stage failed, ``Stopped`` after Ctrl-C, ``AhaError`` for a folder that is in use or
    holds something else. In every case what was finished stays, and calling it again continues.
    """
    check_folder(pipeline, run)
    run.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(run):
            plan = plan_run(pipeline, run, only=only, redo_from=redo_from)
            _Runner(pipeline, run, plan, display=display, jobs=jobs).execute()
    except OSError as error:
        message = describe_os_error(error, run)
        if message is None:
            raise
        raise AhaError(message) from None


@dataclass
class _Active:
    planned: Planned
    process: ForkServerProcess
    connection: Connection | None
    running: Running
    seconds_before: float
    end: tuple[str, ...] | None = None


class _Runner:
    def __init__(self, pipeline: Pipeline, run: Path, plan: Sequence[Planned], *, display: Display, jobs: int) -> None:
        self._pipeline = pipeline
        self._run = run
        self._plan = plan
        self._display = display
        self._jobs = jobs
        self._ledger = Ledger(run)
        self._done = {planned.stage.name for planned in plan if planned.status is StageStatus.DONE}
        self._waiting = [planned for planned in plan if planned.selected]
        self._active: dict[str, _Active] = {}
        self._failures: list[str] = []
        self._stopped: list[str] = []  # stages at work when another failed or a person stopped the run
        self._signals = 0  # how often a person asked to stop
        self._stopping = False
        self._noted_at = time.monotonic()
        self._context: ForkServerContext | None = None

    def execute(self) -> None:
        """Until everything selected is done, or a stage failed, or a person stopped it."""
        write_json_atomic(self._run / "recipe.json", describe(self._pipeline))
        self._announce()
        if self._waiting:
            self._context = start_forkserver(stage_modules())
            threads = self._pipeline.threads
            own = ", ".join(f"{p.stage.name} {p.stage.threads}" for p in self._waiting if p.stage.threads)
            of_their_own = f" ({own})" if own else ""
            self._display.say(
                f"{_stages(len(self._waiting))} to do, up to {self._jobs} at once with {threads} "
                f"thread{'s' if threads > 1 else ''} each{of_their_own} on {usable_cores()} cores"
            )
        try:
            with self._signals_counted():
                self._loop()
        finally:
            for active in self._active.values():  # only when something above raised
                active.process.kill()
                active.process.join()
        if self._failures:
            if self._stopped:
                names = ", ".join(self._stopped)
                self._failures.append(f"     stopped with it, saved and to be continued: {names}")
            raise StageFailed("\n".join(self._failures))
        if self._signals:
            raise Stopped(f"stopped; everything done so far is in {self._run}")

    def _announce(self) -> None:
        stale = {}
        for planned in self._plan:
            name, entry = planned.stage.name, self._ledger.entries.get(planned.stage.name)
            if planned.status is StageStatus.STALE and entry:
                self._display.say(f"{name} is stale: {'; '.join(planned.reasons)}")
                stale[name] = replace(entry, status=StageStatus.STALE)
            elif planned.status is StageStatus.DONE and entry and entry.status is not StageStatus.DONE:
                stale[name] = replace(entry, status=StageStatus.DONE, finished=entry.finished or _now())
            elif planned.reasons and planned.selected:
                self._display.say(f"{name} starts over: {'; '.join(planned.reasons)}")
        if stale:
            self._ledger.put_all(stale)
        redone = {planned.stage.name for planned in self._plan if planned.status is StageStatus.MISSING}
        for name in redone & set(self._ledger.entries):
            self._ledger.remove(name)
        if self._done:
            self._display.say(f"{_stages(len(self._done))} done already")

    def _loop(self) -> None:
        handled = 0
        while True:
            if self._signals > handled:
                handled = self._signals
                self._stop_by_signal(handled)
            while not self._stopping and (planned := self._next_ready()) and self._fits(planned):
                self._start(planned)
            if not self._active:
                return
            self._wait()
            for active in list(self._active.values()):
                self._drain(active)
                if not active.process.is_alive():
                    self._drain(active)
                    self._finish(active)
            self._display.update(
                [active.running for active in self._active.values()], done=len(self._done), total=len(self._plan)
            )
            self._note_seconds()

    def _next_ready(self) -> Planned | None:
        ready = [
            planned
            for planned in self._waiting
            if all(source.name in self._done for source in planned.stage.inputs.values())
        ]
        costs = self._pipeline.remaining_cost()
        return max(ready, key=lambda planned: costs[planned.stage.name], default=None)

    def _fits(self, planned: Planned) -> bool:
        """Whether there are threads for it; a stage that asks for more than there are for all runs alone. What is
        ready but shorter does not go before it: it would keep it waiting."""
        threads = self._pipeline.threads_of
        busy = sum(threads(active.planned.stage) for active in self._active.values())
        return not busy or busy + threads(planned.stage) <= self._jobs * self._pipeline.threads

    def _start(self, planned: Planned) -> None:
        stage, name = planned.stage, planned.stage.name
        self._waiting.remove(planned)
        partial, final = self._run / f"{name}.partial", self._run / name
        continued = planned.status in (StageStatus.PARTIAL, StageStatus.FAILED)
        _wait_for_orphan(partial)
        if not continued:
            self._ledger.remove(name)  # before its folders go: a half-removed one must not look done
            if paid := _clear(final, partial):
                self._display.say(f"{name} keeps {paid} answers that were paid for; those that still fit are used")
        seconds = planned.seconds if continued else 0.0
        entry = Entry(StageStatus.PARTIAL, planned.fingerprint, seconds, None, planned.origin)
        self._ledger.put(name, entry)
        partial.mkdir(exist_ok=True)
        if (partial / "result.json").exists():  # killed between the stage's end and its rename
            self._settle(name, entry)
            return
        (partial / "error.txt").unlink(missing_ok=True)
        job = Job(
            name=name,
            run=stage.run,
            settings=stage.settings,
            inputs={edge: self._run / source.name for edge, source in stage.inputs.items()},
            out=partial,
            seed=self._pipeline.seed_of(stage),
            run_seed=int(self._pipeline.arguments["seed"]),
            threads=self._pipeline.threads_of(stage),
        )
        assert self._context is not None
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=work, args=(job, theirs), name=name)
        process.start()
        theirs.close()
        self._active[name] = _Active(planned, process, ours, Running(name, time.monotonic()), entry.seconds)
        self._display.say(f"{name} {'continues' if continued else 'started'}")

    def _wait(self) -> None:
        waited: list[Connection | int] = [active.process.sentinel for active in self._active.values()]
        waited += [active.connection for active in self._active.values() if active.connection is not None]
        connections.wait(waited, timeout=TICK)

    def _drain(self, active: _Active) -> None:
        try:
            while active.connection is not None and active.connection.poll():
                message = active.connection.recv()
                if message[0] == "progress":
                    step, total, fields = message[1:]
                    active.running.advance(step, total, fields, now=time.monotonic())
                elif message[0] == "note":
                    self._display.say(f"{active.planned.stage.name}: {message[1]}")
                else:
                    active.end = message
        except (EOFError, OSError):
            assert active.connection is not None
            active.connection.close()
            active.connection = None

    def _finish(self, active: _Active) -> None:
        name = active.planned.stage.name
        active.process.join()
        if active.connection is not None:
            active.connection.close()
        del self._active[name]
        entry = replace(self._ledger.entries[name], seconds=_seconds(active))
        end = active.end or ("killed",)
        if end[0] == "done":
            self._settle(name, entry)
        elif end[0] == "stopped" or (end[0] == "killed" and (self._stopping or self._signals)):
            self._ledger.put(name, entry)
            self._stopped.append(name)
            self._display.say(f"{name} stopped after {format_seconds(entry.seconds)}")
        else:
            message = end[1] if end[0] == "failed" else _describe_death(active.process.exitcode, self._run, name)
            self._ledger.put(name, replace(entry, status=StageStatus.FAILED))
            self._failures.append(f"stage {name} failed: {message}")
            others = f"; stopping {', '.join(self._active)} too" if self._active and not self._stopping else ""
            self._display.say(f"{name} failed{others}")
            self._ask_to_stop()

    def _settle(self, name: str, entry: Entry) -> None:
        partial = self._run / f"{name}.partial"
        output = partial / "output.log"
        if output.exists() and output.stat().st_size == 0:
            output.unlink()
        partial.rename(self._run / name)
        self._ledger.put(name, replace(entry, status=StageStatus.DONE, finished=_now()))
        self._done.add(name)
        self._display.say(f"{name} done in {format_seconds(entry.seconds)}")

    def _stop_by_signal(self, times: int) -> None:
        if times == 1:
            if self._active:
                self._display.say(f"stopping: waiting for {', '.join(self._active)} to save; Ctrl-C again kills")
            self._ask_to_stop()
        else:
            self._stopping = True
            for active in self._active.values():
                active.process.kill()

    def _ask_to_stop(self) -> None:
        self._stopping = True
        for active in self._active.values():
            with contextlib.suppress(OSError):  # it has just ended
                if active.connection is not None:
                    active.connection.send(STOP)

    def _note_seconds(self) -> None:
        if time.monotonic() - self._noted_at < LEDGER_EVERY:
            return
        self._noted_at = time.monotonic()
        entries = {name: self._ledger.entries[name] for name in self._active}
        self._ledger.put_all(
            {name: replace(entry, seconds=_seconds(self._active[name])) for name, entry in entries.items()}
        )

    @contextlib.contextmanager
    def _signals_counted(self) -> Iterator[None]:
        def count(_number: int, _frame: FrameType | None) -> None:
            self._signals += 1

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, count) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _clear(final: Path, partial: Path) -> int:
    """Removes both folders of a stage but for answers that an endpoint was paid for, which then are in ``partial``, and
    says how many. Killed anywhere, it can be called again: an answer that is there twice counts once."""
    for ledger in paid_ledgers(final):
        kept = partial / ledger.name
        write_bytes_atomic(kept, (kept.read_bytes() if kept.exists() else b"") + ledger.read_bytes())
    paid = paid_ledgers(partial)
    removed = [final, *(path for path in partial.iterdir() if path not in paid)] if paid else [final, partial]
    for path in removed:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return sum(paid.values())


def _stages(count: int) -> str:
    return f"{count} stage{'' if count == 1 else 's'}"


def _seconds(active: _Active) -> float:
    return round(active.seconds_before + time.monotonic() - active.running.started, 3)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _describe_death(code: int | None, run: Path, name: str) -> str:
    log = run / f"{name}.partial" / "output.log"
    if code is not None and code < 0:
        cause = f"its process was killed by {signal.Signals(-code).name}"
        if -code == signal.SIGKILL:
            cause += " (often: the machine ran out of memory; fewer --jobs need less)"
    else:
        cause = f"its process ended with code {code}"
    return f"{cause}; what it printed is in {log}"


@contextlib.contextmanager
def _locked(run: Path) -> Iterator[None]:
    with (run / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AhaError(f"{run} is being worked on by another `aha run`: wait for it, or choose --out") from None
        yield


def _wait_for_orphan(partial: Path) -> None:
    """A stage holds a lock on its folder; one whose runner was killed is dying, and must be dead before we go on."""
    if not partial.exists():
        return
    descriptor = os.open(partial, os.O_RDONLY)
    deadline = time.monotonic() + ORPHAN_DEADLINE
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise AhaError(f"{partial} is still in use by a process of an earlier run: end it first") from None
            time.sleep(0.05)
    finally:
        os.close(descriptor)
