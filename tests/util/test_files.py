"""Atomic files, JSON lines, hashes."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import numpy
import pytest

from aha.errors import DataError
from aha.util.files import (
    append_jsonl,
    hash_fraction,
    read_json,
    read_jsonl,
    sha256_file,
    write_json_atomic,
    write_text_atomic,
)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_text_atomic(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text_atomic(path, "new")
    assert path.read_text() == "old" and os.listdir(path.parent) == ["file.txt"]


def test_json_round_trip_of_what_metrics_hold(tmp_path: Path) -> None:
    row = {"loss": numpy.float32(0.5), "nan": float("nan"), "path": Path("a"), "list": (1, 2.5, "é"), "none": None}
    plain = {"loss": 0.5, "nan": None, "path": "a", "list": [1, 2.5, "é"], "none": None}
    write_json_atomic(tmp_path / "x.json", row)
    assert read_json(tmp_path / "x.json") == plain
    for _ in range(2):
        append_jsonl(tmp_path / "x.jsonl", row)
    assert read_jsonl(tmp_path / "x.jsonl") == [plain, plain]
    with gzip.open(tmp_path / "y.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write((tmp_path / "x.jsonl").read_text() + "\n")
    assert read_jsonl(tmp_path / "y.jsonl.gz") == [plain, plain]


def test_what_cannot_be_read_is_named_with_its_line(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"a": 1}\n\n{"a": \n')
    with pytest.raises(DataError, match=r"bad.jsonl:3: not JSON"):
        read_jsonl(bad)
    bad.write_text('{"a": 1}\n[1]\n')
    with pytest.raises(DataError, match=r"bad.jsonl:2: expected an object, found list"):
        read_jsonl(bad)
    (tmp_path / "x.jsonl.gz").write_text("plain")
    for path in (tmp_path / "x.jsonl.gz", tmp_path / "none.jsonl"):
        with pytest.raises(DataError, match=path.name):
            read_jsonl(path)
    with pytest.raises(DataError, match="cannot be read .Is a directory"):
        read_jsonl(tmp_path)
    for path in (bad, tmp_path / "none.json", tmp_path):
        with pytest.raises(DataError, match=path.name):
            read_json(path)


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_file(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()
    fractions = sorted(hash_fraction(f"problem {i}") for i in range(2000))
    assert fractions[0] >= 0 and fractions[-1] < 1
    assert all(abs(value - i / 2000) < 0.04 for i, value in enumerate(fractions))  # Kolmogorov: 0.036 at one in 100
