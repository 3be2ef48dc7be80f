"""A data set folder, made in pieces that are whole or absent, so that a killed command continues where it was.

    NAME/part-00000.jsonl ...   the rows
         removed.jsonl          every row that a step removed: file, line, id, why
         rejected.jsonl         every row that could not be read: file, line, why, and its beginning
         card.json, card.md     where it comes from and what was done (data/card.py)

Until it is done it is ``.NAME.partial`` beside. Every piece depends on the sources and settings alone, so the bytes are
those of an uninterrupted run.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from aha.data.card import make_card, source_record, write_card
from aha.data.fields import read_named
from aha.data.files import Rejected, Row, encode_rows, find_files
from aha.errors import UsageError
from aha.util.files import read_json, write_bytes_atomic, write_json_atomic

SHARD_ROWS = 50_000
SAMPLES = 5  # removed rows of each reason that the card shows
Progress = Callable[[str, int, int | None], None]
"""Told what is being done, how much of it is done, and of how much, where that is known."""


@dataclass(frozen=True, slots=True)
class Removal:
    """Why a row goes: ``Removal("near-duplicate", "0.93 like gsm8k.jsonl:17")``. Rows are counted by ``reason``."""

    reason: str
    detail: str = ""


Verdicts = Sequence[Removal | None]
Judge = Callable[[int, Sequence[Row]], Verdicts]
"""Of the rows of one chunk, whose number it is told: which go, and why. It may add fields to those that stay."""


class Step(Protocol):
    """What is done to a data set. ``settings`` are what its outcome depends on, beside the sources."""

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    def prepare(self, chunks: Chunks, progress: Progress) -> Judge:
        """Looks at all rows as often as it must; what takes long it keeps in files of ``chunks.folder``."""


@dataclass(frozen=True)
class Chunks:
    """The rows of all sources in chunks of equal size, in a folder where any of them can be read again."""

    folder: Path
    count: int
    rows: int
    files: tuple[str, ...]

    def read(self, number: int) -> list[Row]:
        with self._path(number).open(encoding="utf-8") as file:
            return [self._row(line) for line in file]

    def _row(self, line: str) -> Row:
        source, place, fields = json.loads(line)
        return Row(self.files[source], place, fields)

    def lines(self, number: int) -> Iterator[tuple[int, bytes]]:
        """The place of each row of a chunk in the chunk's bytes, and its line."""
        place = 0
        with self._path(number).open("rb") as file:
            for line in file:
                yield place, line
                place += len(line)

    def pick(self, number: int, places: Sequence[int]) -> list[Row]:
        """The rows of a chunk that begin at these bytes."""
        rows = []
        with self._path(number).open("rb") as file:
            for place in places:
                file.seek(place)
                rows.append(self._row(file.readline().decode()))
        return rows

    def _path(self, number: int) -> Path:
        return self.folder / f"rows-{number:05d}.jsonl"


@dataclass(frozen=True)
class Output:
    """Where a data set goes and in which form: ``Output(Path("clean"), form="jsonl.gz")``."""

    folder: Path
    form: str = "jsonl"
    shard_rows: int = SHARD_ROWS

    @property
    def partial(self) -> Path:
        return self.folder.with_name(f".{self.folder.name}.partial")


def build(step: Step, sources: Sequence[str | Path], output: Output, progress: Progress) -> dict[str, Any]:
    """``output.folder`` with the rows of ``sources`` that ``step`` keeps, in their order; returns its card.

    What is done already is not done again; a folder that was made otherwise is an error and stays.
    """
    files = find_files(sources)
    plan = plan_of(step.name, step.settings, files, output, progress)
    if done := finished(plan, output):
        return done
    chunks = ingest(files, output, progress)
    judge = step.prepare(chunks, progress)
    for number in range(chunks.count):
        if not (output.partial / f"counts-{number:05d}.json").is_file():
            rows = chunks.read(number)
            verdicts = judge(number, rows)
            kept = [row for row, verdict in zip(rows, verdicts, strict=True) if verdict is None]
            gone = [(row, verdict) for row, verdict in zip(rows, verdicts, strict=True) if verdict is not None]
            write_part(output, number, kept, gone)
        progress(step.name, min(chunks.rows, (number + 1) * output.shard_rows), chunks.rows)
    return finish(plan, chunks, chunks.count, output)


def plan_of(
    name: str, settings: Mapping[str, Any], files: Sequence[Path], output: Output, progress: Progress
) -> dict[str, Any]:
    """All that the bytes of a data set depend on: the sources with their hashes, the step, its settings, the form."""
    sources = []
    for number, file in enumerate(files, 1):
        sources.append(source_record(file))
        progress("hashing", number, len(files))
    form = {"format": output.form, "shard_rows": output.shard_rows}
    return {"step": name, "settings": json.loads(json.dumps(dict(settings))), **form, "sources": sources}


def finished(plan: Mapping[str, Any], output: Output) -> dict[str, Any] | None:
    """The card, if this very plan was carried out. Otherwise what another plan left half done is cleared away, and so
    is in a finished folder what a killed command did not come to remove."""
    if output.folder.exists():
        card = output.folder / "card.json"
        if card.is_file() and (found := read_json(card)).get("plan") == plan:
            _remove_scaffolding(output.folder)
            return dict(found)
        raise UsageError(f"{output.folder} exists and was not made by this command with these sources: choose another")
    partial = output.partial
    if partial.exists() and (not (partial / "plan.json").is_file() or read_json(partial / "plan.json") != plan):
        shutil.rmtree(partial)
    write_json_atomic(partial / "plan.json", plan)
    return None


def ingest(files: Sequence[Path], output: Output, progress: Progress) -> Chunks:
    """Reads the sources into chunks, unless that was done: rows in one file each, rejected ones in another.
    ``DataError`` where no row of all can be used."""
    folder, index = output.partial / "work", output.partial / "work" / "chunks.json"
    names = tuple(map(str, files))
    if index.is_file():
        found = read_json(index)
        return Chunks(folder, found["chunks"], found["rows"], names)
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    rejected: list[Rejected] = []
    total = chunks = 0
    numbers = {name: number for number, name in enumerate(names)}
    for row in read_named(files):
        if isinstance(row, Rejected):
            rejected.append(row)
            continue
        lines.append(json.dumps([numbers[row.file], row.line, row.fields], ensure_ascii=False) + "\n")
        total += 1
        if len(lines) == output.shard_rows:
            write_bytes_atomic(folder / f"rows-{chunks:05d}.jsonl", "".join(lines).encode(), sync=False)
            chunks += 1
            lines.clear()
            progress("reading", total, None)
    if lines:
        write_bytes_atomic(folder / f"rows-{chunks:05d}.jsonl", "".join(lines).encode(), sync=False)
        chunks += 1
    text = "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in rejected)
    write_bytes_atomic(output.partial / "rejected.jsonl", text.encode(errors="replace"))
    write_json_atomic(index, {"chunks": chunks, "rows": total})
    return Chunks(folder, chunks, total, names)


def write_part(
    output: Output, number: int, kept: Sequence[Row], gone: Sequence[tuple[Row, Removal]] = ()
) -> None:
    """One part, what was removed beside it, and last the counts, which say that the part is done."""
    if kept:
        data = encode_rows([row.fields for row in kept], output.form)
        write_bytes_atomic(output.partial / f"part-{number:05d}.{output.form}", data)
    lines = [
        {"file": row.file, "line": row.line, "id": row.fields["id"], "why": removal.reason, "detail": removal.detail}
        for row, removal in gone
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_bytes_atomic(output.partial / f"removed-{number:05d}.jsonl", text.encode())
    samples: dict[str, list[dict[str, Any]]] = {}
    for row, removal in gone:
        shown = samples.setdefault(removal.reason, [])
        if len(shown) < SAMPLES:
            place, text = f"{row.file}:{row.line}", str(row.fields["problem"])[:200]
            shown.append({"row": place, "problem": text, "detail": removal.detail})
    counts = {
        "kept": dict(Counter(row.file for row in kept)),
        "removed": dict(Counter(removal.reason for _, removal in gone)),
        "removed_by_file": dict(Counter(row.file for row, _ in gone)),
        "samples": samples,
    }
    write_json_atomic(output.partial / f"counts-{number:05d}.json", counts)


def finish(plan: Mapping[str, Any], chunks: Chunks, parts: int, output: Output) -> dict[str, Any]:
    """The card from the counts of all parts, the folder by its name at once, and only then the scaffolding gone: killed
    before that name, the command has all it needs to come here again."""
    partial = output.partial
    counts = [read_json(partial / f"counts-{number:05d}.json") for number in range(parts)]
    with (partial / "rejected.jsonl").open(encoding="utf-8") as file:
        rejected = Counter(json.loads(line)["file"] for line in file)
    card = make_card(plan, counts, dict(rejected), samples=SAMPLES)
    with (partial / "removed.jsonl").open("wb") as whole:
        for number in range(parts):
            whole.write((partial / f"removed-{number:05d}.jsonl").read_bytes())
    write_card(partial, card)
    os.replace(partial, output.folder)
    _remove_scaffolding(output.folder)
    return card


def _remove_scaffolding(folder: Path) -> None:
    scaffolding = ("removed-*.jsonl", "counts-*.json", ".*.tmp", "plan.json")
    for piece in [piece for pattern in scaffolding for piece in folder.glob(pattern)]:
        piece.unlink(missing_ok=True)
    shutil.rmtree(folder / "work", ignore_errors=True)
