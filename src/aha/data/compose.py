"""Data sets composed of rows that are chosen among all: a mix of sources, a diverse selection, the sides of a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from aha.data.dataset import (
    Chunks,
    Judge,
    Output,
    Progress,
    Removal,
    Verdicts,
    finish,
    finished,
    ingest,
    plan_of,
    write_part,
)
from aha.data.fields import read_named
from aha.data.files import Row, find_files
from aha.data.mix import mix_counts, mix_shares, rank, select_diverse, split_side
from aha.errors import DataError, UsageError


@dataclass(frozen=True)
class Split:
    """The step that keeps one side of the split by hash."""

    side: Literal["train", "test"]
    share: float = 0.1
    name: str = "split"

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"side": self.side, "test": self.share}

    def prepare(self, chunks: Chunks, progress: Progress) -> Judge:
        def judge(number: int, rows: Sequence[Row]) -> Verdicts:
            other = Removal("on the other side")
            return [None if split_side(row.fields, self.share) == self.side else other for row in rows]

        return judge


@dataclass(frozen=True)
class Select:
    """The step that keeps ``count`` rows: domains first, then long ones (``data/mix.py``: ``select_diverse``).

    ``by`` is the field with the domain; a length is that of the completion, or else of the solution or the question, in
    characters.
    """

    count: int
    by: str = "subject"
    power: float = 1.0
    seed: int = 0
    name: str = "select"

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"count": self.count, "by": self.by, "power": self.power, "seed": self.seed}

    def prepare(self, chunks: Chunks, progress: Progress) -> Judge:
        domains: list[str] = []
        lengths: list[int] = []
        starts = [0]
        for number in range(chunks.count):
            for row in chunks.read(number):
                if row.fields.get(self.by) is None:
                    fields = ", ".join(row.fields)
                    raise DataError(f"{row.file}:{row.line}: no field {self.by!r}, its domain (fields: {fields})")
                domains.append(str(row.fields[self.by]))
                said = next(filter(None, map(row.fields.get, ("completion", "solution", "problem"))))
                lengths.append(len(str(said)))
            starts.append(len(domains))
        chosen = set(select_diverse(domains, lengths, self.count, self.seed, power=self.power))

        def judge(number: int, rows: Sequence[Row]) -> Verdicts:
            begin = starts[number]
            return [None if begin + i in chosen else Removal("not selected") for i in range(len(rows))]

        return judge


def build_mix(
    weights: Mapping[str, float],
    output: Output,
    progress: Progress,
    *,
    total: int | None = None,
    temperature: float = 1.0,
    seed: int = 0,
) -> dict[str, Any]:
    """A data set of ``total`` rows of several sources by weight, shuffled; returns its card.

    ``weights`` by source (file, folder or glob). ``total`` None takes as many as the scarcest source allows.
    """
    files_of = {source: find_files([source]) for source in weights}
    files = [file for of_one in files_of.values() for file in of_one]
    if len(set(files)) < len(files):
        raise UsageError(f"a file belongs to two of the sources {', '.join(weights)}")
    settings = {"weights": dict(weights), "total": total, "temperature": temperature, "seed": seed}
    plan = plan_of("mix", settings, files, output, progress)
    if done := finished(plan, output):
        return done
    chunks = ingest(files, output, progress)
    source_of = [source for source, of_one in files_of.items() for _ in of_one]
    places: dict[str, list[tuple[int, int]]] = {source: [] for source in weights}
    for number in range(chunks.count):
        for place, line in chunks.lines(number):
            places[source_of[int(line[1 : line.index(b",")])]].append((number, place))
    sizes = {source: len(rows) for source, rows in places.items()}
    for source in (source for source, size in sizes.items() if not size):
        list(read_named(files_of[source]))  # raises, and says why there are none
    counts = mix_counts(sizes, mix_shares(weights, temperature), total)
    chosen: list[tuple[int, int]] = []
    for source, rows in places.items():
        ranks = np.array([rank(seed, source, i) for i in range(len(rows))])
        chosen += [rows[i] for i in np.argsort(ranks, kind="stable")[: counts[source]]]
    order = np.argsort([rank(seed, "order", i) for i in range(len(chosen))], kind="stable")
    parts = -(-len(chosen) // output.shard_rows)
    for part in range(parts):
        if not (output.partial / f"counts-{part:05d}.json").is_file():
            wanted = [chosen[i] for i in order[part * output.shard_rows : (part + 1) * output.shard_rows]]
            write_part(output, part, _gather(chunks, wanted))
        progress("mix", min(len(chosen), (part + 1) * output.shard_rows), len(chosen))
    return finish(plan, chunks, parts, output)


def _gather(chunks: Chunks, wanted: Sequence[tuple[int, int]]) -> list[Row]:
    """The rows at (chunk, place), in the order given; each chunk is opened once."""
    rows: dict[tuple[int, int], Row] = {}
    for number in sorted({chunk for chunk, _ in wanted}):
        places = sorted(place for chunk, place in wanted if chunk == number)
        rows.update(zip([(number, place) for place in places], chunks.pick(number, places), strict=True))
    return [rows[one] for one in wanted]
