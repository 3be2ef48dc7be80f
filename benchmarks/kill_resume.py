"""Kill a run ten times at random moments, resume it each time, and compare it bit for bit with one left alone.

    python -m benchmarks.kill_resume [--recipe r1_smoke] [--kills 10] [--seed 0] [--folder FOLDER]

Compares every weight file, every sample file and ``summary.json`` (times aside). Exit code 1 names what differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from aha.util.files import sha256_file


def start(recipe: str, out: Path) -> subprocess.Popen[bytes]:
    """``aha run`` in a process group of its own: the kill reaches the runner alone, and its stages must notice."""
    command = [sys.executable, "-m", "aha", "run", recipe, "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def run_straight(recipe: str, out: Path) -> float:
    began = time.monotonic()
    process = start(recipe, out)
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"the straight run failed:\n{errors.decode()}")
    return time.monotonic() - began


def run_with_kills(recipe: str, out: Path, *, kills: int, horizon: float, rng: random.Random) -> int:
    """Kill ``kills`` times after a random share of ``horizon``; then let it end. Returns how many kills hit."""
    hits = 0
    for _ in range(kills):
        process = start(recipe, out)
        try:
            process.wait(timeout=2.0 + rng.uniform(0.0, 2.0 * horizon / kills))
            break  # it ended before the kill
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            hits += 1
    run_straight(recipe, out)
    return hits


def without_times(value: Any) -> Any:
    """``value`` without its entries named after seconds."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if "second" not in k}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def differences(a: Path, b: Path) -> list[str]:
    """Relative paths of weight files and samples that differ, and ``summary.json`` if it does."""
    found = []
    for path in sorted(a.rglob("*.safetensors")) + sorted(a.rglob("*.parquet")):
        relative = path.relative_to(a)
        if "state" in relative.parts:
            continue
        other = b / relative
        if not other.is_file() or sha256_file(path) != sha256_file(other):
            found.append(str(relative))
    summaries = [without_times(json.loads((run / "summary.json").read_text(encoding="utf-8"))) for run in (a, b)]
    return found + (["summary.json"] if summaries[0] != summaries[1] else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="r1_smoke")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="kill_resume_"))
    seconds = run_straight(options.recipe, folder / "straight")
    print(f"straight run: {seconds:.0f} s", flush=True)
    rng = random.Random(options.seed)
    hits = run_with_kills(options.recipe, folder / "killed", kills=options.kills, horizon=seconds, rng=rng)
    found = differences(folder / "straight", folder / "killed")
    print(f"killed {hits} times; files that differ: {', '.join(found) or 'none'}")
    if found:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
