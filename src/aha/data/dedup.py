"""Equal and nearly equal questions: the first stays. To be run on the union of all sources (replications 1.4).

Equal is: the same tokens of data/text.py. Nearly equal is: a Jaccard similarity of their runs of three tokens of at
least a threshold, and the same numbers, symbols and one-letter variables in the same order, and the same answer:
whoever changes a number has written another problem, and so has who asks for the product and not the sum (of 68 near
pairs in GSM8K, MATH and others that agreed in all but the answer, 56 had different answers). With
``digits="ignored"`` the same problem with other numbers, and so with another answer, is a duplicate as well.

Pairs are found by MinHash bands and then compared exactly, so nothing goes by an estimate. A row goes only if a row
that stays is so similar.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aha.data.dataset import Chunks, Judge, Progress, Removal, Verdicts
from aha.data.files import Row
from aha.data.minhash import (
    I64,
    SHINGLE,
    U64,
    Bands,
    band_keys,
    jaccard,
    shingle_hashes,
    token_lists_hash,
    unique_in_rows,
)
from aha.data.text import is_fixed, tokens
from aha.util.files import write_bytes_atomic

MOST_COMPARED = 64
"""Rows of one bucket that another of the same bucket is compared with: the first ones. Without a limit, a bucket of m
rows would take m**2 comparisons."""


@dataclass(frozen=True)
class Dedup:
    """The step. ``threshold`` 1 removes equal questions alone. With ``answers`` equal questions, too, are the same
    only where their ``answer`` is; else the first answer stays."""

    threshold: float = 0.7
    digits: Literal["kept", "ignored"] = "kept"
    answers: bool = False
    bands: Bands = field(default_factory=Bands)
    name: str = "dedup"

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "threshold": self.threshold,
            "digits": self.digits,
            "answers": self.answers,
            "shingle": SHINGLE,
            "bands": [self.bands.count, self.bands.rows],
        }

    def prepare(self, chunks: Chunks, progress: Progress) -> Judge:
        for number in range(chunks.count):
            path = chunks.folder / f"sketch-{number:05d}.npz"
            if not path.is_file():
                sketch = io.BytesIO()
                arrays: dict[str, Any] = self.sketch([row.fields for row in chunks.read(number)])
                np.savez(sketch, **arrays)
                write_bytes_atomic(path, sketch.getvalue(), sync=False)
            progress("hashing questions", number + 1, chunks.count)
        paths = [chunks.folder / f"sketch-{number:05d}.npz" for number in range(chunks.count)]
        twins, likeness = self.find(paths, progress)
        starts = np.concatenate([[0], np.cumsum(_sizes(paths))]).astype(np.int64)
        names = _Names(chunks, starts)

        def judge(number: int, rows: Sequence[Row]) -> Verdicts:
            begin = starts[number]
            return [
                None
                if twins[row] < 0
                else Removal("duplicate", f"equal to {names.of(int(twins[row]))}")
                if likeness[row] == 2
                else Removal("near-duplicate", f"{likeness[row]:.2f} like {names.of(int(twins[row]))}")
                for row in range(begin, begin + len(rows))
            ]

        return judge

    def sketch(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
        """What is compared of B rows: a hash of each whole question, its shingles, its band keys."""
        lists = [tokens(row["problem"]) for row in rows]
        if self.digits == "ignored":
            lists = [[token for token in one if not token[-1].isdigit()] for one in lists]
        extra = [[str(row.get("answer", "")).strip()] if self.answers else [] for row in rows]
        whole = token_lists_hash([*one, "\x1e", *more] for one, more in zip(lists, extra, strict=True))
        if self.threshold >= 1:
            return {"whole": whole}
        if self.digits == "kept":
            extra = [[str(row.get("answer", "")).strip()] for row in rows]
        pairs = zip(lists, extra, strict=True)
        fixed = token_lists_hash([*filter(is_fixed, one), "\x1e", *more] for one, more in pairs)
        shingles, ends = unique_in_rows(*shingle_hashes(lists, SHINGLE))
        keys = band_keys(shingles, ends, fixed, self.bands)
        bands = {f"keys-{band}": row for band, row in enumerate(keys)}  # apart: one at a time is read again
        return {"whole": whole, "fixed": fixed, "shingles": shingles, "ends": ends, **bands}

    def find(self, paths: Sequence[Path], progress: Progress) -> tuple[I64, NDArray[np.float64]]:
        """For every row the row that stays instead of it, or -1, and how alike they are: 2 where they are equal."""
        whole = _joined(paths, "whole")
        twins = np.full(len(whole), -1, np.int64)
        likeness = np.zeros(len(whole))
        _, first, inverse = np.unique(whole, return_index=True, return_inverse=True)
        earliest = first[inverse]
        equal = earliest < np.arange(len(whole))
        twins[equal], likeness[equal] = earliest[equal], 2.0
        if self.threshold >= 1:
            return twins, likeness
        alive = np.flatnonzero(~equal)
        fixed, ends = _joined(paths, "fixed"), _joined_ends(paths)
        shingles = _joined(paths, "shingles")
        known: dict[int, list[tuple[int, float]]] = {}
        seen = np.empty(0, np.uint64)
        for band in range(self.bands.count):
            progress("comparing", band, self.bands.count)
            keys = np.concatenate([np.load(path)[f"keys-{band}"] for path in paths])[alive]
            left, right = _pairs(keys)
            left, right = alive[left], alive[right]
            same = fixed[left] == fixed[right]  # a key is a hash: what it promises is looked at
            left, right = left[same], right[same]
            code = np.setdiff1d((right.astype(np.uint64) << np.uint64(32)) | left.astype(np.uint64), seen)
            left, right = (code & np.uint64(0xFFFFFFFF)).astype(np.int64), (code >> np.uint64(32)).astype(np.int64)
            alike = jaccard(left, right, shingles, ends)
            near = alike >= self.threshold
            seen = np.union1d(seen, code[near])
            for a, b, value in zip(left[near].tolist(), right[near].tolist(), alike[near].tolist(), strict=True):
                known.setdefault(b, []).append((a, value))
        for row in sorted(known):
            staying = [(-value, a) for a, value in known[row] if twins[a] < 0]
            if staying:
                value, twins[row] = min(staying)
                likeness[row] = -value
        gone = np.flatnonzero(equal & (twins[earliest] >= 0))  # equal to a row that goes: named is the one that stays
        twins[gone], likeness[gone] = twins[earliest[gone]], likeness[earliest[gone]]
        progress("comparing", self.bands.count, self.bands.count)
        return twins, likeness


def _pairs(keys: U64) -> tuple[I64, I64]:
    """All pairs (earlier, later) of rows with equal keys, of the first ``MOST_COMPARED`` rows of a bucket with all."""
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    begins = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]])) if len(keys) else np.empty(0, int)
    place = np.arange(len(keys)) - np.repeat(begins, np.diff(np.append(begins, len(keys))))
    lefts, rights = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for offset in range(MOST_COMPARED):  # the offset-th row of each bucket with those behind it
        behind = np.flatnonzero(place > offset)
        if not len(behind):
            break
        lefts.append(order[behind - place[behind] + offset])
        rights.append(order[behind])
    return np.concatenate(lefts), np.concatenate(rights)


def _sizes(paths: Sequence[Path]) -> list[int]:
    return [len(np.load(path)["whole"]) for path in paths]


def _joined(paths: Sequence[Path], name: str) -> NDArray[Any]:
    return np.concatenate([np.load(path)[name] for path in paths]) if paths else np.empty(0, np.uint64)


def _joined_ends(paths: Sequence[Path]) -> I64:
    counts = [np.diff(np.load(path)["ends"]) for path in paths]
    return np.concatenate([[0], np.cumsum(np.concatenate(counts))] if counts else [[0]]).astype(np.int64)


class _Names:
    """The file and line of a row by its number, one chunk's at a time in memory."""

    def __init__(self, chunks: Chunks, starts: I64) -> None:
        self.chunks, self.starts = chunks, starts
        self.known: dict[int, list[str]] = {}

    def of(self, row: int) -> str:
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        if number not in self.known:
            self.known[number] = list(self._names(number))
        return self.known[number][row - int(self.starts[number])]

    def _names(self, number: int) -> Iterator[str]:
        for row in self.chunks.read(number):
            yield f"{row.file}:{row.line}"
