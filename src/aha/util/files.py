"""Files that are whole or absent: atomic writes, JSON lines, hashes. Numbers that JSON cannot hold become null."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aha.errors import DataError


def write_text_atomic(path: str | Path, text: str) -> None:
    """Writes ``text`` so that a reader, or a crash, sees the old file or the new one and nothing between."""
    write_bytes_atomic(path, text.encode())


def write_bytes_atomic(path: str | Path, data: bytes, *, sync: bool = True) -> None:
    """``write_text_atomic`` of bytes. Without ``sync`` a killed process still leaves the old file or the new one, but a
    machine that loses its power may not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = str(path)  # not the temporary's name, and not nothing, as when a disk is full
        raise
    finally:
        temporary.unlink(missing_ok=True)


def json_text(obj: Any, *, indent: int | None = None) -> str:
    """``obj`` as JSON that any reader takes: one line without ``indent``."""
    return json.dumps(_plain(obj), indent=indent, ensure_ascii=False, allow_nan=False)


def write_json_atomic(path: str | Path, obj: Any) -> None:
    """``write_text_atomic`` of ``obj`` as indented JSON."""
    write_text_atomic(path, json_text(obj, indent=1) + "\n")


def read_json(path: str | Path) -> Any:
    """The JSON value in ``path``; ``DataError`` names the file when it is missing or is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from None


def read_object(path: str | Path) -> dict[str, Any]:
    """``read_json`` of a file that holds an object; ``DataError`` where it holds something else."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected an object, found {type(found).__name__}")
    return found


def append_jsonl(path: str | Path, row: Mapping[str, Any]) -> None:
    """Appends one line. It is one write system call, so that a killed process leaves whole lines."""
    line = (json_text(row) + "\n").encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        while line:  # a second round only on a disk that is filling up, where it raises ENOSPC
            line = line[os.write(descriptor, line) :]
    finally:
        os.close(descriptor)


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a ``.jsonl`` or ``.jsonl.gz`` file; ``DataError`` names file and line of what is not an object."""
    path = Path(path)
    opener = gzip.open if path.suffix == ".gz" else open
    rows: list[dict[str, Any]] = []
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                rows.append(json_object(line, f"{path}:{number}"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    return rows


def json_object(line: str | bytes, where: str) -> dict[str, Any]:
    """The object in a line of JSON; ``DataError`` says ``where`` there is none."""
    try:
        row = json.loads(line)
    except ValueError as error:  # of bytes that are no text, too
        raise DataError(f"{where}: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object, found {type(row).__name__}")
    return row


def sha256_file(path: str | Path) -> str:
    """64 hexadecimal digits of the SHA-256 of the bytes of ``path``."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_fraction(text: str) -> float:
    """A number in [0, 1) that depends on ``text`` alone: splits by it do not move when rows are added or reordered."""
    return (int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 11) / 2**53


def _plain(obj: Any) -> Any:
    if isinstance(obj, Mapping):
        return {str(key): _plain(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_plain(value) for value in obj]
    if isinstance(obj, Path):
        return str(obj)
    if not isinstance(obj, str | int | bool | float) and hasattr(obj, "item"):  # a number of numpy or torch
        return _plain(obj.item())
    if isinstance(obj, float) and not math.isfinite(obj):
        return None
    return obj
