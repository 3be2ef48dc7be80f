"""A side of a benchmark in a process of its own: its memory is its own, and a peer may have another interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from aha.errors import AhaError
from benchmarks.setting import Side, Taken

PEERS = Path(__file__).parent / "peers"


class Launch(NamedTuple):
    """A file of ``benchmarks/peers``, the interpreter that has what it imports, more environment variables, and what
    differs from the setting of all."""

    script: str
    python: Path = Path(sys.executable)
    environment: Mapping[str, str] = {}
    own: Mapping[str, Any] = {}


class Child:
    """A side that waits while others run. ``folder`` has the weights and ``setting.json``."""

    def __init__(self, launch: Launch, folder: Path) -> None:
        self._launch = launch
        self._process = subprocess.Popen(
            [launch.python, PEERS / launch.script, folder, json.dumps(dict(launch.own))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | launch.environment,
        )
        self.first: list[int] = self._read()["first"]

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()

    def run(self) -> tuple[Taken, float]:
        """What a run took, and the peak of the process's memory in MiB."""
        assert self._process.stdin is not None
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        found = self._read()
        return Taken(found["wall"], found["cpu"]), found["peak"]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise AhaError(
                f"{self._launch.python} {self._launch.script} ended with code {self._process.wait()}; what it said "
                "stands above. Does that interpreter have the peer?"
            )
        found: dict[str, Any] = json.loads(line)
        return found


def run_in_turn(children: Mapping[str, Child], *, repeat: int) -> dict[str, Side]:
    """``repeat`` runs of each, after one that does not count. A machine that grows slower treats them alike."""
    found = {name: Side([], 0.0) for name in children}
    for turn in range(repeat + 1):
        for name, child in children.items():
            taken, peak = child.run()
            if turn:
                found[name] = Side([*found[name].runs, taken], max(found[name].peak, peak))
            print(f"{name}: {taken.wall:.2f} s{'' if turn else ' (warm-up)'}", file=sys.stderr, flush=True)
    return found


def check_same_model(first: Mapping[str, Sequence[int]], *, least: float) -> None:
    """``AhaError`` where fewer than the share ``least`` of a side's prompts have the same likeliest next token as
    ``aha``'s: then it computes another model, and its speed means nothing. A side may have ``aha``'s first prompts."""
    for name, tokens in first.items():
        same = sum(a == b for a, b in zip(tokens, first["aha"], strict=False))
        if same < least * len(tokens):
            raise AhaError(f"{name} and aha say the same first token behind {same} of {len(tokens)} prompts only")
