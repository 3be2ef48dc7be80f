"""A command of ``aha data`` that is killed in the middle, its process and all, goes on to the bytes of a straight
run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import aha
from aha.cli import main
from aha.stages.models import save_policy
from aha.testing import tiny_policy


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["aha", "data", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (0, None)


def kill_when(exists: Path, *words: object) -> None:
    """Starts the command and kills it as soon as the file is there."""
    environment = {**os.environ, "PYTHONPATH": str(Path(aha.__file__).parents[1])}
    command = [sys.executable, "-m", "aha", "data", *map(str, words)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not exists.is_file():
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed: ask for more rows"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_dedup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "A crate holds {} jars of plum jam and {} lids; count them."
    rows = ({"problem": text.format(i % 900, i % 7)} for i in range(3_000))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = "dedup", tmp_path / "a.jsonl", "--shard-rows", 100
    partial = tmp_path / ".killed.partial"
    kill_when(partial / "work" / "sketch-00005.npz", *command, "--out", tmp_path / "killed")
    assert partial.is_dir() and not (tmp_path / "killed").exists()
    for name in ("killed", "straight"):
        run(monkeypatch, *command, "--out", tmp_path / name)
    assert files(tmp_path / "killed") == files(tmp_path / "straight") and not partial.exists()


def test_difficulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_policy(tiny_policy(), tmp_path / "model")
    rows = ({"problem": f"compute {i} + {j}", "answer": i + j} for i in range(8) for j in range(3))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = "difficulty", tmp_path / "a.jsonl", "--model", tmp_path / "model", "--samples", 3
    command += "--shard-rows", 4, "--max-new-tokens", 12  # type: ignore[assignment]
    partial = tmp_path / ".killed.partial"
    kill_when(partial / "work" / "difficulty-00002.jsonl", *command, "--out", tmp_path / "killed")
    assert partial.is_dir()
    for name in ("killed", "straight"):
        run(monkeypatch, *command, "--out", tmp_path / name)
    assert files(tmp_path / "killed") == files(tmp_path / "straight")
    card = json.loads((tmp_path / "killed" / "card.json").read_text())
    assert card["counts"]["kept"] == 24 and "model.safetensors" in card["plan"]["settings"]["model"]["sha256"]
