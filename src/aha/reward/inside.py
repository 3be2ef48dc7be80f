"""What runs inside the sandbox: a warm process that forks, for each request, a program and the one who watches it.

    template (process 1 of its namespaces) ── watcher (reads the request, runs the tests, answers)
                                                  └── program (knows its own source and input, nothing else)

Forking an interpreter that is already there takes a millisecond or two, starting one takes twenty. The template never
reads a request, and the program is forked before the watcher does: no memory that the program inherits has ever held a
test, an expected output or another program. When the watcher is done, the template kills whatever is left.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import math
import os
import resource
import select
import shutil
import signal
import site
import struct
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from aha.reward import confine, remote

LAYERS = ("rlimits", "seccomp", "namespaces")  # the weakest first
_PRELOADED = (
    "bisect", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "heapq",
    "itertools", "math", "operator", "random", "re", "statistics", "string", "typing",
)  # fmt: skip
_MAX_FRAME = 32 * 2**20
_WATCHER_MEMORY = 2**30
_MEMORY_EXIT = 86
# How a watcher ends that cannot cope with a value which a program has built for that: the program's failure, not ours.
_OVERWHELMED = (signal.SIGXCPU, signal.SIGSEGV, signal.SIGABRT)
_OVERWHELMING = {"outcome": "killed", "stdout": "", "stderr": "", "seconds": 0.0, "failures": None}
_WATCHER_SECONDS = 3  # of CPU time, more than the program has
_ORDERS, _ANSWERS = 3, 4  # file descriptors of a program that is served


def main() -> NoReturn:
    """``detect`` finds which layers this machine has; a list such as ``rlimits,seccomp`` serves programs with them."""
    requests, replies = (fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in (0, 1))
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.argv[1] == "detect":
        _write_frame(replies, json.dumps(detect()).encode())
        os._exit(0)
    layers = sys.argv[1].split(",")
    for name in _PRELOADED:
        importlib.import_module(name)
    if "namespaces" in layers:
        confine.enter_namespaces()
        child = os.fork()
        if child:
            os.close(requests)
            os.close(replies)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 255)
        confine.die_with_parent(signal.SIGKILL)
    elif sys.platform == "linux":
        confine.adopt_orphans()
    gc.collect()
    gc.freeze()
    os.write(replies, b".")
    _serve(requests, replies, layers)


def detect() -> dict[str, str]:
    """Why each layer cannot be had; an empty text where it can."""

    def scratch() -> None:
        confine.enter_namespaces()
        _in_child(confine.mount_scratch)

    def limits() -> None:
        confine.limit_resources(seconds=5, memory=2**30, processes=None)

    found = {}
    for name, action in zip(LAYERS, (limits, confine.install_filter, scratch), strict=True):
        try:
            _in_child(action)
            found[name] = ""
        except OSError as error:
            found[name] = error.strerror or "failed without a reason"
    return found


def _in_child(action: Callable[[], None]) -> None:
    """Whether ``action`` works, tried by a process that then ends. ``OSError`` has its reason."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        except Exception as error:
            os.write(writer, str(getattr(error, "strerror", None) or error).encode())
            os._exit(1)
    os.close(writer)
    with open(reader, encoding="utf-8") as stream:
        reason = stream.read()
    status = os.waitpid(child, 0)[1]
    if status:
        raise OSError(0, reason or f"the trial ended with status {status}")


# --- the template --------------------------------------------------------------------------------------------------


def _serve(requests: int, replies: int, layers: list[str]) -> NoReturn:
    """One request after the other, until the caller closes its end or something is not as it should be."""
    waiting = select.poll()
    waiting.register(requests, select.POLLIN)
    while True:
        (event,) = waiting.poll()
        if not event[1] & select.POLLIN:
            os._exit(0)
        scratch = "/tmp"
        if "namespaces" in layers:
            confine.mount_scratch()
        else:
            scratch = tempfile.mkdtemp(prefix="aha-program-")
        watcher = os.fork()
        if watcher == 0:
            _watch(requests, replies, scratch, layers)
        status = os.waitpid(watcher, 0)[1]
        _sweep(watcher, everything="namespaces" in layers)
        if "namespaces" in layers:
            confine.unmount_scratch()
        else:
            shutil.rmtree(scratch, ignore_errors=True)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) in _OVERWHELMED:
            _write_frame(replies, json.dumps(_OVERWHELMING).encode())
        elif status:
            os._exit(1)
        os.write(replies, b".")


def _sweep(watcher: int, *, everything: bool) -> None:
    """Kills what a request has left. As process 1, that is every other process that there is."""
    while True:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if everything:
                os.kill(-1, signal.SIGKILL)
            else:
                os.killpg(watcher, signal.SIGKILL)
        if not everything:
            for child in _children():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(child, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as stream:
            return [int(word) for word in stream.read().split()]
    except OSError:
        return []


# --- the watcher ---------------------------------------------------------------------------------------------------


class _Ended(BaseException):
    """The program is over: in time or not. No ``except Exception`` of a test may catch it."""


class _Watch:
    """A running program as its watcher sees it: bounded output, bounded time, frames asked and answered."""

    def __init__(self, pid: int, orders: int, answers: int, stdout: int, stderr: int) -> None:
        self._pid, self._orders, self._answers = pid, orders, answers
        self._streams = {stdout: bytearray(), stderr: bytearray()}
        self._open = {stdout, stderr, answers}
        self._answer = bytearray()
        self._started = time.monotonic()
        self._deadline, self._cpu_seconds, self._max_output = math.inf, 1, 0
        self.outcome = ""
        self.stdout, self.stderr = self._streams.values()
        for fd in (orders, answers, stdout, stderr):
            os.set_blocking(fd, False)

    def start(self, order: Mapping[str, Any]) -> None:
        self._started = time.monotonic()
        self._deadline = self._started + order["wall_seconds"]
        self._cpu_seconds, self._max_output = order["cpu_seconds"], order["output"]

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def exchange(self, message: bytes) -> bytes:
        """Sends a frame and gives the answer to it; ``_Ended`` when there will be none."""
        self.send(message)
        while not self.outcome:
            answer = self._take_frame()
            if answer is not None:
                return answer
            if self._answers not in self._open:
                self.wait()
            else:
                self._pump(b"")
        raise _Ended

    def send(self, message: bytes) -> None:
        rest: bytes | memoryview = memoryview(struct.pack(">I", len(message)) + message)
        while rest and not self.outcome:
            rest = self._pump(rest)

    def wait(self) -> None:
        """Until the program ends, or has to."""
        with contextlib.suppress(OSError):
            os.close(self._orders)
        while not self.outcome:
            ended, status, usage = os.wait4(self._pid, os.WNOHANG)
            if ended:
                self._drain()
                self.outcome = self.outcome or self._judge(status, usage)
            elif self._open:
                self._pump(b"", patience=0.02)
            elif time.monotonic() > self._deadline:
                self.outcome = "timeout"
            else:
                time.sleep(0.0005)

    def _pump(self, rest: bytes | memoryview, *, patience: float = 1.0) -> bytes | memoryview:
        """Moves what can be moved without waiting for longer than ``patience``; gives what is still to be sent."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            self.outcome = "timeout"
            return b""
        readable, writable, _ = select.select(self._open, [self._orders] if rest else [], [], min(left, patience))
        for fd in readable:
            self._read(fd)
        if writable:
            try:
                return rest[os.write(self._orders, rest) :]
            except BrokenPipeError:
                self.wait()
                return b""
        if not readable and self._answers not in self._open and rest:
            self.wait()
        return rest

    def _read(self, fd: int) -> bool:
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return False
        if not data:
            self._open.discard(fd)
            return False
        if fd == self._answers:
            self._answer += data
            too_much = len(self._answer) > _MAX_FRAME
        else:
            self._streams[fd] += data
            too_much = sum(map(len, self._streams.values())) > self._max_output
        if too_much:
            self.outcome = "output"
        return not too_much

    def _drain(self) -> None:
        for fd in list(self._open):
            while self._read(fd):
                pass

    def _take_frame(self) -> bytes | None:
        if len(self._answer) < 4:
            return None
        end = 4 + int(struct.unpack(">I", self._answer[:4])[0])
        if len(self._answer) < end:
            return None
        frame = bytes(self._answer[4:end])
        del self._answer[:end]
        return frame

    def _judge(self, status: int, usage: resource.struct_rusage) -> str:
        if os.WIFSIGNALED(status):
            spent = usage.ru_utime + usage.ru_stime
            late = os.WTERMSIG(status) == signal.SIGXCPU or spent >= self._cpu_seconds
            return "timeout" if late else "killed"
        code = os.WEXITSTATUS(status)
        return "memory" if code == _MEMORY_EXIT else "ok" if code == 0 else "error"


def _watch(requests: int, replies: int, scratch: str, layers: list[str]) -> NoReturn:
    """Forks the program, reads the request, and answers it."""
    confine.die_with_parent(signal.SIGKILL)
    os.setpgid(0, 0)
    (orders_out, orders_in), (answers_out, answers_in), (out, out_in), (err, err_in) = (os.pipe() for _ in range(4))
    pid = os.fork()
    if pid == 0:
        _place_descriptors(os.open(os.devnull, os.O_RDWR), out_in, err_in, orders_out, answers_in)
        _run_program(scratch, layers)
    for fd in (orders_out, answers_in, out_in, err_in):
        os.close(fd)
    watch = _Watch(pid, orders_in, answers_out, out, err)
    request = json.loads(_read_frame(requests) or b"")
    order, tests = request["order"], request.get("tests")
    watch.start(order)
    _confine(layers, seconds=order["cpu_seconds"] + _WATCHER_SECONDS, memory=_WATCHER_MEMORY)
    failures = []
    if tests is None:
        watch.send(json.dumps(order).encode())
        watch.wait()
    else:
        _raise_at(watch, order["wall_seconds"] + 1)
        failures = _run_tests(watch, order, tests)
        _raise_at(watch, 0)
    reply = {
        "outcome": watch.outcome or "ok",
        "stdout": watch.stdout[: order["output"]].decode("utf-8", "replace"),
        "stderr": watch.stderr[-2000:].decode("utf-8", "replace"),
        "seconds": watch.seconds,
        "failures": failures,
    }
    _write_frame(replies, json.dumps(reply).encode())
    os._exit(0)


def _run_tests(watch: _Watch, order: Mapping[str, Any], request: Mapping[str, Any]) -> list[tuple[int, str]]:
    """The tests that failed, by number, each with what happened."""
    tests = request["tests"]
    program = remote.Program(watch.exchange)
    try:
        program.read(watch.exchange(json.dumps(order).encode()))
        namespace = remote.build_namespace(
            program,
            setup=request["setup"],
            tests=tests,
            entry_point=request["entry_point"],
            exports=request["exports"],
        )
    except BaseException as error:
        return _failures(tests, 0, _what_happened(watch, error))
    failures: list[tuple[int, str]] = []
    for index, test in enumerate(tests):
        try:
            exec(compile(test, "test", "exec", dont_inherit=True), namespace)
            happened = _what_happened(watch, _Ended()) if watch.outcome else ""
        except BaseException as error:
            happened = _what_happened(watch, error)
        if watch.outcome:
            return failures + _failures(tests, index, happened)
        if happened:
            failures.append((index, happened))
            if request["stop"]:
                break
    return failures


def _failures(tests: list[str], first: int, happened: str) -> list[tuple[int, str]]:
    """All from the ``first`` on: nothing after the program's end can pass."""
    return [(index, happened) for index in range(first, len(tests))]


def _what_happened(watch: _Watch, error: BaseException) -> str:
    if isinstance(error, _Ended):
        watch.outcome = watch.outcome or "timeout"
        return "the program ended before the tests did" if watch.outcome == "ok" else watch.outcome
    if isinstance(error, MemoryError):
        return "memory"
    name, text = type(error).__name__, remote.describe(error)[1]
    return f"{name}: {text}" if text else name if name != "AssertionError" else "the assertion is false"


def _raise_at(watch: _Watch, seconds: float) -> None:
    """Ends a test that itself never does: what it computes with may be what a program gave it. 0: never."""

    def late(number: int, frame: object) -> NoReturn:
        watch.outcome = watch.outcome or "timeout"  # a test may swallow the exception
        raise _Ended

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)


# --- the program ---------------------------------------------------------------------------------------------------


def _run_program(scratch: str, layers: list[str]) -> NoReturn:
    confine.die_with_parent(signal.SIGKILL)
    order = json.loads(_read_frame(_ORDERS) or b"")
    os.chdir(scratch)
    with open(confine.STDIN, "r+b") if "namespaces" in layers else tempfile.TemporaryFile(dir=scratch) as stdin:
        stdin.write(order["stdin"].encode("utf-8", "surrogatepass"))
        stdin.seek(0)
        os.dup2(stdin.fileno(), 0)
    if not order["serve"]:
        os.closerange(_ORDERS, _ANSWERS + 1)
    os.environ.clear()
    sys.argv[:] = ["program.py"]
    sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    sys.modules["random"].seed(0)  # the same program gets the same verdict
    site.setquit()  # exit and quit, which an interpreter that starts without `site` lacks
    module = types.ModuleType("program" if order["serve"] else "__main__")
    module.__file__ = "program.py"
    sys.modules[module.__name__] = module
    _confine(layers, seconds=order["cpu_seconds"], memory=order["memory"])
    code = 1
    try:
        code = _serve_program(order, module) if order["serve"] else _run_script(order, module)
    finally:
        os._exit(code)


def _run_script(order: Mapping[str, Any], module: types.ModuleType) -> int:
    """Exit code, as Python's own: threads are waited for, output is flushed, an exception is shown and is 1."""
    code = _exit_code(lambda: exec(_compile_program(order), module.__dict__))
    ends = threading._shutdown, atexit._run_exitfuncs, _flush, lambda: _drop(module), _flush  # type: ignore[attr-defined]
    return max(code, *map(_exit_code, ends))


def _exit_code(action: Callable[[], object]) -> int:
    try:
        action()
    except MemoryError:
        return _MEMORY_EXIT
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return (stop.code or 0) & 255
        return 1
    except BaseException as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        try:
            traceback.print_exception(type(error), error, trace, limit=-5)
        except MemoryError:
            return _MEMORY_EXIT
        except BaseException:
            return 1
        return 1
    return 0


def _compile_program(order: Mapping[str, Any]) -> types.CodeType:
    """Without this file's own ``from __future__``."""
    return compile(order["source"], "program.py", "exec", dont_inherit=True)


def _flush() -> None:
    for stream in (sys.stdout, sys.__stdout__):
        with contextlib.suppress(ValueError, AttributeError, OSError):  # the program has closed it
            stream.flush()  # type: ignore[union-attr]


def _drop(module: types.ModuleType) -> None:
    """What the program still holds: files that it left open are written, and ``__del__`` may print."""
    module.__dict__.clear()
    gc.collect()


def _serve_program(order: Mapping[str, Any], module: types.ModuleType) -> int:
    """Runs the program's definitions, says whether they ran, and answers calls."""

    def send(message: bytes) -> None:
        _write_frame(_ANSWERS, message)

    try:
        exec(_compile_program(order), module.__dict__)
        send(b'{"value": null}')
    except BaseException as error:
        send(json.dumps({"error": remote.describe(error)}).encode())
        return 1
    remote.serve(module.__dict__, lambda: _read_frame(_ORDERS), send)
    return 0


# --- shared --------------------------------------------------------------------------------------------------------


def _confine(layers: list[str], *, seconds: int, memory: int) -> None:
    """No way back from here."""
    if "namespaces" in layers:
        confine.drop_capabilities()
    # Elsewhere the kernel would count every process of this user; the filter forbids new ones.
    processes = None if "seccomp" in layers and "namespaces" not in layers else confine.MAX_THREADS
    confine.limit_resources(seconds=seconds, memory=memory, processes=processes)
    if "seccomp" in layers:
        confine.install_filter()


def _place_descriptors(*fds: int) -> None:
    """These become 0, 1, 2 ... and every other one is closed."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 128) for fd in fds]
    for target, fd in enumerate(high):
        os.dup2(fd, target)
    os.closerange(len(fds), 1024)


def _read_frame(fd: int) -> bytes | None:
    """The next frame; ``None`` at the end."""
    head = _read_exactly(fd, 4)
    return None if head is None else _read_exactly(fd, int(struct.unpack(">I", head)[0]))


def _read_exactly(fd: int, count: int) -> bytes | None:
    data = bytearray()
    while len(data) < count:
        part = os.read(fd, count - len(data))
        if not part:
            return None
        data += part
    return bytes(data)


def _write_frame(fd: int, message: bytes) -> None:
    rest = memoryview(struct.pack(">I", len(message)) + message)
    while rest:
        rest = rest[os.write(fd, rest) :]
