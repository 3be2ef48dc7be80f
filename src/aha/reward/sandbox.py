"""Running untrusted Python: a fresh process a program, one program at a time, behind namespaces, seccomp and limits.

``with Sandbox() as sandbox: sandbox.run("print(6 * 7)").stdout`` is ``"42\\n"``. What a layer guards, what happens
without it and what none of them guards is in docs/decisions/0010-program-sandbox.md.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import aha
from aha.errors import SandboxError, SandboxRefused

Minimum = Literal["namespaces", "seccomp", "rlimits"]
_LAYERS: tuple[Minimum, ...] = ("rlimits", "seccomp", "namespaces")  # the weakest first
_GUARDS = {
    "rlimits": "time, memory and files of limited size",
    "seccomp": "one process, no network, no signals, no other system calls",
    "namespaces": "no files but Python's, no other processes, a private /tmp",
}
_GRACE = 20.0  # seconds that a sandbox may take longer than its program before it counts as broken
_START = "import sys; sys.path.append(sys.argv.pop(1)); from aha.reward import inside; sys.path.pop(); inside.main()"
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "MALLOC_ARENA_MAX": "1", "LC_ALL": "C.UTF-8"}


class Outcome(StrEnum):
    """How a program ended."""

    OK = "ok"  # by itself, with exit code 0
    ERROR = "error"  # an exception, or another exit code
    TIMEOUT = "timeout"  # CPU time or wall time is up
    MEMORY = "memory"  # a MemoryError that it did not catch
    OUTPUT = "output"  # it wrote too much
    KILLED = "killed"  # by a signal: a crash of the interpreter, or the system ran out of memory


@dataclass(frozen=True, slots=True)
class Limits:
    """``cpu_seconds`` is what a verdict should hang on: it does not depend on what else the machine does.

    ``wall_seconds`` ends programs that wait; ``memory`` is the address space and ``output`` standard output and error
    together, in bytes.
    """

    cpu_seconds: int = 5
    wall_seconds: float = 15.0
    memory: int = 512 * 2**20
    output: int = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Result:
    """``Result(Outcome.OK, "42\\n", "", 0.002)``. ``stderr`` is cut to its end. ``failures`` are the tests that failed,
    each as its number from 0 and what happened; where tests were asked for, no failure means that all have passed."""

    outcome: Outcome
    stdout: str
    stderr: str
    seconds: float
    failures: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Layer:
    """``Layer("seccomp", "")`` is active; otherwise ``missing`` says why it cannot be had here."""

    name: Minimum
    missing: str

    @property
    def guards(self) -> str:
        return _GUARDS[self.name]


@functools.cache
def find_layers() -> tuple[Layer, ...]:
    """Which layers this machine has, the weakest first; each is tried once a process."""
    if os.name != "posix":
        return tuple(Layer(name, f"{sys.platform} has no such thing") for name in _LAYERS)
    try:
        process = _spawn("detect")
        with process, _deadline(process, _GRACE):
            found = json.loads(_read_frame(process))
    except (OSError, SandboxError) as error:
        return tuple(Layer(name, f"no process could be started: {error}") for name in _LAYERS)
    return tuple(Layer(name, found[name]) for name in _LAYERS)


def check_layers(minimum: Minimum = "namespaces") -> tuple[Minimum, ...]:
    """The layers to use: all that there are. ``SandboxRefused`` when one of ``minimum`` or below it is missing."""
    layers = find_layers()
    needed = _LAYERS[: _LAYERS.index(minimum) + 1]
    missing = [layer for layer in layers if layer.missing and layer.name in needed]
    active = [layer.name for layer in layers if not layer.missing]
    if missing:
        reasons = "\n".join(f"  {layer.name} ({layer.guards}): {layer.missing}" for layer in missing)
        raise SandboxRefused(
            f"programs are not run: a layer of the sandbox is missing (active: {', '.join(active) or 'none'})\n"
            f"{reasons}\n"
            "Run on Linux 5.12 or later where users may make namespaces (sysctl user.max_user_namespaces above 0, "
            "kernel.apparmor_restrict_unprivileged_userns 0; in a container, a seccomp profile that allows unshare and "
            "mount), or, on a machine whose files and network may be lost to them, ask for less: "
            f"minimum={_strongest(active)!r}"
        )
    return tuple(active)


def _strongest(active: Sequence[Minimum]) -> str:
    whole = [name for place, name in enumerate(_LAYERS) if set(_LAYERS[: place + 1]) <= set(active)]
    return whole[-1] if whole else "nothing is left here"


class Sandbox:
    """A warm process behind all layers that there are; a program is a fork of it. Not for several threads at a time.

    ``minimum`` names the layer without which nothing is run: ``namespaces`` (all three), ``seccomp`` or ``rlimits``.
    """

    def __init__(self, *, minimum: Minimum = "namespaces") -> None:
        self._layers = check_layers(minimum)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the warm process and all that is in it."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what it had not read yet
                    if stream is not None:
                        stream.close()
            process.wait()

    def run(self, source: str, *, stdin: str = "", limits: Limits | None = None) -> Result:
        """Runs ``source`` as a script. ``SandboxError`` when the sandbox itself fails."""
        return self._ask(source, stdin, limits or Limits(), None)

    def test(
        self,
        source: str,
        *,
        tests: Sequence[str],
        setup: str = "",
        entry_point: str = "",
        exports: Sequence[str] | None = None,
        stop: bool = True,
        limits: Limits | None = None,
    ) -> Result:
        """Runs ``tests``, statements, on what ``source`` defines, each side in a process of its own (remote.py).

        ``setup`` is run before the tests, beside them. With an ``entry_point`` it is all that the tests see of the
        program, also as ``candidate``; else ``exports`` are the names that they see, by default all that they use.
        ``stop`` ends at the first failure. ``SandboxError`` when the sandbox fails.
        """
        asked = {"tests": list(tests), "setup": setup, "entry_point": entry_point, "exports": exports, "stop": stop}
        return self._ask(source, "", limits or Limits(), asked)

    def _start(self) -> subprocess.Popen[bytes]:
        process = self._process = _spawn(",".join(self._layers))
        with _deadline(process, _GRACE):
            if process.stdout is None or process.stdout.read(1) != b".":
                raise SandboxError("it did not start, although its layers were there: `aha doctor` tries them")
        return process

    def _ask(self, source: str, stdin: str, limits: Limits, tests: Mapping[str, Any] | None) -> Result:
        order = {"source": source, "stdin": stdin, "serve": tests is not None}
        order |= {name: getattr(limits, name) for name in Limits.__slots__}
        request = json.dumps({"order": order, "tests": tests}).encode()
        try:
            process = self._process = self._process or self._start()
            with _deadline(process, limits.wall_seconds + limits.cpu_seconds + _GRACE):
                assert process.stdin is not None and process.stdout is not None
                process.stdin.write(struct.pack(">I", len(request)) + request)
                process.stdin.flush()
                reply = json.loads(_read_frame(process))
                if process.stdout.read(1) != b".":  # everything that the program was is gone
                    raise SandboxError("it could not clear away a program")
        except (OSError, ValueError, SandboxError) as error:
            self.close()
            raise SandboxError(f"the sandbox failed: {error}") from error
        if reply["failures"] is None:
            unfinished = "the tests could not cope with what the program returned"
            reply["failures"] = [(index, unfinished) for index in range(len(tests["tests"] if tests else ()))]
        failures = tuple((index, what) for index, what in reply["failures"])
        return Result(Outcome(reply["outcome"]), reply["stdout"], reply["stderr"], reply["seconds"], failures)


@contextlib.contextmanager
def _deadline(process: subprocess.Popen[bytes], seconds: float) -> Iterator[None]:
    """Kills a process that keeps its caller waiting for longer: reading from it then ends."""
    guard = threading.Timer(seconds, process.kill)
    guard.daemon = True
    guard.start()
    try:
        yield
    finally:
        guard.cancel()


def _spawn(task: str) -> subprocess.Popen[bytes]:
    """A bare interpreter that sees no environment and no packages."""
    interpreter = getattr(sys, "_base_executable", None) or sys.executable
    return subprocess.Popen(
        [interpreter, "-P", "-s", "-S", "-B", "-c", _START, str(Path(aha.__file__).resolve().parents[1]), task],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_ENVIRONMENT,
        cwd="/",
        start_new_session=True,
    )


def _read_frame(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    head = process.stdout.read(4)
    body = process.stdout.read(struct.unpack(">I", head)[0]) if len(head) == 4 else b""
    if not body:
        raise SandboxError("its process ended without an answer")
    return body
