"""Rows of files in the common formats, one after the other: JSON lines, JSON, CSV, TSV and Parquet, also compressed.

Nothing is held that was read before, so a file may be larger than memory. A row that cannot be used is a
:class:`Rejected` with file, line and reason; a file that cannot be read to its end is a ``DataError``, since nobody
knows what is lost with it.
"""

from __future__ import annotations

import bz2
import csv
import datetime
import decimal
import glob
import gzip
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow
import pyarrow.parquet

from aha.errors import DataError

FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
COMPRESSIONS = (".gz", ".zst", ".bz2")
MAX_LINE = 1 << 26
"""Bytes of one row: a longer one is no row, and must not fill the memory."""
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """``Row("gsm8k.jsonl", 7, {"problem": "What is 7 + 45?", "answer": "52"})``: ``line`` counts from 1; in Parquet and
    JSON arrays it is the number of the row."""

    file: str
    line: int
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that is set aside: ``Rejected("gsm8k.jsonl", 8, "not JSON: ...", '{"problem": ')``; the text is cut."""

    file: str
    line: int
    why: str
    text: str


def find_files(sources: Sequence[str | Path]) -> list[Path]:
    """The files that files, folders and globs name, each once, those of a folder or glob by name.

    A folder stands for all files in it of a known format; a data set that these commands wrote, be it that folder or
    one inside, for its rows alone.
    ``DataError`` names a source that gives none.
    """
    found: dict[Path, None] = {}
    for source in sources:
        path = Path(source)
        if path.is_dir():
            files = [file for file in _files_in(path) if file.is_file() and format_of(file)]
        elif path.is_file():
            if not format_of(path):
                raise DataError(f"{path}: the name tells no format; known: {_known()}")
            files = [path]
        else:
            matches = sorted(map(Path, glob.glob(str(source), recursive=True)))
            files = [file for file in matches if file.is_file() and format_of(file)]
        if not files:
            raise DataError(f"{source}: no such file, or nothing in it of a known format ({_known()})")
        found.update(dict.fromkeys(files))
    return list(found)


def format_of(path: Path) -> str:
    """``".jsonl"`` for ``a.jsonl`` and ``a.jsonl.gz``; empty for a name without a known format."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if len(suffixes) == 2 and suffixes[1] in COMPRESSIONS:
        suffixes.pop()
    kind = suffixes[-1] if suffixes else ""
    compressed = path.suffix.lower() in COMPRESSIONS
    return kind if kind in FORMATS and not (compressed and kind == ".parquet") else ""


def read_rows(path: Path) -> Iterator[Row | Rejected]:
    """Every row of a file in its order; blank lines are no rows. ``DataError`` where the file itself is broken."""
    readers = {".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
    try:
        yield from readers.get(format_of(path), _json_lines)(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, EOFError, pyarrow.ArrowException) as error:
        raise DataError(
            f"{path}: cannot be read to its end ({getattr(error, 'strerror', None) or error}); fetch it again"
        ) from None


def load_rows(source: str | Path) -> list[dict[str, Any]]:
    """All rows of a file, or of the files of a folder or glob, which must be whole: ``DataError`` names file and line
    of the first that cannot be used."""
    rows = []
    for file in find_files([source]):
        for row in read_rows(file):
            if isinstance(row, Rejected):
                raise DataError(f"{row.file}:{row.line}: {row.why}")
            rows.append(row.fields)
    return rows


def encode_rows(rows: Sequence[Mapping[str, Any]], form: str) -> bytes:
    """A whole file of ``rows`` in the format that ``form`` names (``jsonl``, ``jsonl.gz``, ``jsonl.zst``, ``parquet``);
    the same rows give the same bytes. ``DataError`` where a Parquet column would need two types."""
    if form == "parquet":
        return _encode_parquet(rows)
    data = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows).encode()
    if form == "jsonl.gz":
        return gzip.compress(data, mtime=0)
    if form == "jsonl.zst":
        return bytes(pyarrow.Codec("zstd").compress(data, asbytes=True))
    return data


def _encode_parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    names = dict.fromkeys(name for row in rows for name in row)
    sink = pyarrow.BufferOutputStream()
    try:
        table = pyarrow.table({name: [row.get(name) for row in rows] for name in names})
        pyarrow.parquet.write_table(table, sink, compression="zstd")
    except (pyarrow.ArrowException, OverflowError) as error:
        raise DataError(f"these rows do not fit the columns of Parquet ({error}); write jsonl instead") from None
    return bytes(sink.getvalue().to_pybytes())


def open_binary(path: Path) -> BinaryIO:
    """The bytes of a file, decompressed as its name says."""
    match path.suffix.lower():
        case ".gz":
            return cast(BinaryIO, gzip.open(path, "rb"))
        case ".bz2":
            return cast(BinaryIO, bz2.open(path, "rb"))
        case ".zst":
            return cast(BinaryIO, io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"), _PIECE))
    return path.open("rb")


def _json_lines(path: Path) -> Iterator[Row | Rejected]:
    with closing(open_binary(path)) as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                head = line[:200]
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE)
                yield Rejected(str(path), number, f"longer than {MAX_LINE} bytes", head.decode(errors="replace"))
                continue
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield _row_of_text(path, number, line)


def _row_of_text(path: Path, number: int, line: bytes) -> Row | Rejected:
    try:
        return _row(path, number, json.loads(line.decode(), parse_constant=_refuse))
    except UnicodeDecodeError as error:
        why = f"not UTF-8 at byte {error.start}"
    except RecursionError:
        why = "nested too deeply"
    except ValueError as error:
        why = f"not JSON: {error}"
    return Rejected(str(path), number, why, line[:200].decode(errors="replace").rstrip("\n"))


def _row(path: Path, number: int, value: Any) -> Row | Rejected:
    """``value`` as a row, if it is an object whose text can be written again."""
    if not isinstance(value, dict):
        return Rejected(str(path), number, f"expected an object, found {type(value).__name__}", repr(value)[:200])
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        why = "holds half of a surrogate pair, which is no text"
    except RecursionError:
        why = "nested too deeply"
    except (TypeError, ValueError) as error:
        why = f"cannot be written as JSON: {error}"
    else:
        return Row(str(path), number, value)
    return Rejected(str(path), number, why, ascii(value)[:200])


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _json(path: Path) -> Iterator[Row | Rejected]:
    """The objects of one array, or of JSON values one after the other; each is dropped before the next is parsed."""
    decoder = json.JSONDecoder(parse_constant=_refuse)
    with closing(open_binary(path)) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig") as file:
        number, buffer, ended, opened = 0, "", False, False
        while True:
            buffer = buffer.lstrip(" \t\r\n," if opened else " \t\r\n")
            if not opened and number == 0 and buffer.startswith("["):
                opened, buffer = True, buffer[1:]
                continue
            if opened and buffer.startswith("]"):
                return
            if ended and not buffer and not opened:
                return
            try:
                value, end = decoder.raw_decode(buffer)
                if end == len(buffer) and not ended:
                    raise ValueError("a number may go on")
            except RecursionError:
                raise DataError(f"{path}, row {number + 1}: nested too deeply") from None
            except ValueError as error:
                if ended or len(buffer) > MAX_LINE:
                    raise DataError(f"{path}: not JSON from row {number + 1} on ({error})") from None
                try:
                    piece = file.read(max(_PIECE, len(buffer)))  # twice as much each time: a long row stays linear
                except UnicodeDecodeError as bad:
                    raise DataError(f"{path}: not UTF-8 near row {number + 1} ({bad.reason})") from None
                ended, buffer = not piece, buffer + piece
                continue
            number, buffer = number + 1, buffer[end:]
            yield _row(path, number, value)


def _csv(path: Path) -> Iterator[Row | Rejected]:
    """Each record as text fields under the names of the first line; a field left empty is left out."""
    csv.field_size_limit(MAX_LINE)
    delimiter = "\t" if format_of(path) == ".tsv" else ","
    raw = open_binary(path)
    with closing(raw), io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        names: list[str] | None = None
        while True:
            start = reader.line_num + 1
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Rejected(str(path), start, f"not {format_of(path)[1:].upper()}: {error}", "")
                continue
            if names is None:
                names = record
                if len(set(names)) < len(names) or "" in names:
                    raise DataError(f"{path}: the first line must name every column once, found {names}")
            elif record and len(record) != len(names):
                why = f"{len(record)} fields under {len(names)} names"
                yield Rejected(str(path), start, why, ascii(record)[:200])
            elif record:
                yield _row(path, start, {name: value for name, value in zip(names, record, strict=True) if value})


def _parquet(path: Path) -> Iterator[Row | Rejected]:
    number = 0
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(1024):
            for value in batch.to_pylist():
                number += 1
                fields = {name: _plain(item) for name, item in value.items() if item is not None}
                yield _row(path, number, fields)


def _plain(value: Any) -> Any:
    """Dates and decimals as text; what JSON cannot hold stays, and its row is rejected by name."""
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _files_in(folder: Path) -> Iterator[Path]:
    """By name: of a data set, which has a card, those of rows; of another folder all, and those of folders in it."""
    is_data_set = (folder / "card.json").is_file()
    for path in sorted(folder.iterdir()):
        if is_data_set:
            if path.name.startswith(("part-", "examples.jsonl")):
                yield path
        elif path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
            yield from _files_in(path)
        elif not path.name.startswith("."):
            yield path


def _known() -> str:
    return f"{', '.join(FORMATS)}; all but .parquet also with {', '.join(COMPRESSIONS)}"
