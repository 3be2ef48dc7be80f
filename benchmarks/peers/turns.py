"""The children's half of ``benchmarks/sides.py``: a line on standard input is a run, a line on standard output what it
took. What a peer prints goes to standard error. Nothing here needs more than Python."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def read_setting() -> tuple[Path, dict[str, Any]]:
    """The folder with the weights and the setting, as the parent gave them; what is this side's own comes first."""
    folder = Path(sys.argv[1])
    return folder, json.loads((folder / "setting.json").read_text()) | json.loads(sys.argv[2])


def measure(run: Callable[[], None]) -> dict[str, float]:
    """Seconds and the peak of the process's memory in MiB."""
    with suppress(OSError):  # where Linux cannot reset it, it is the whole process's
        Path("/proc/self/clear_refs").write_text("5")
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    taken = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return taken | {"peak": int(line.split()[1]) / 1024}


def take_turns(
    run: Callable[[], None],
    first: Sequence[int],
    measure: Callable[[Callable[[], None]], dict[str, float]] = measure,
) -> None:
    """Says that it is ready, with the likeliest first token behind each prompt, then runs once for each line."""
    _say({"first": [int(token) for token in first]})
    for _ in sys.stdin:
        _say(measure(run))


def _say(line: dict[str, Any]) -> None:
    _out.write(json.dumps(line) + "\n")
    _out.flush()
