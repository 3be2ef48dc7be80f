"""MinHash signatures of many token lists at once, in bands for locality-sensitive hashing (Broder 1997; Leskovec,
Rajaraman and Ullman, chapter 3).

Axes: `B` token lists, `T` tokens of all of them in a row, `N` different shingles of all of them in a row, `P` = bands *
rows permutations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
SHINGLE = 3
_MIX = np.uint64(0x9E3779B97F4A7C15)
_CACHE = 2_000_000


@dataclass(frozen=True)
class Bands:
    """``count`` bands of ``rows`` minima each: two sets of Jaccard similarity s share a band with the probability
    ``1 - (1 - s**rows)**count``: 0.9998 at 0.7 and 0.06 at 0.2 for these 32 of 4."""

    count: int = 32
    rows: int = 4

    def chance(self, similarity: float) -> float:
        """The probability that two sets so similar are compared at all."""
        return float(1 - (1 - similarity**self.rows) ** self.count)


class _TokenHashes(dict[str, int]):
    """Token to 64 bits, the same in every process and on every machine."""

    def __missing__(self, token: str) -> int:
        if len(self) >= _CACHE:
            self.clear()
        self[token] = value = hash_text(token)
        return value


_TOKENS = _TokenHashes()


def hash_text(text: str) -> int:
    """64 bits that depend on ``text`` alone."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def shingle_hashes(lists: Sequence[Sequence[str]], size: int) -> tuple[U64, I64]:
    """Hashes of every run of ``size`` tokens, in order: ``N`` of them and for each of ``B`` lists where it starts, with
    the end as the last (``B + 1``). A list with fewer tokens is one shingle of all it has."""
    lengths = np.array([len(tokens) for tokens in lists], dtype=np.int64)
    flat = np.fromiter((_TOKENS[token] for tokens in lists for token in tokens), np.uint64, int(lengths.sum()))
    counts = np.maximum(lengths - size + 1, 1)
    starts = np.concatenate([[0], np.cumsum(lengths)])[:-1]
    ends = np.concatenate([[0], np.cumsum(counts)])
    first = np.repeat(starts - ends[:-1], counts) + np.arange(ends[-1])  # place of each shingle's first token
    last = np.repeat(starts + lengths, counts)
    hashes = np.full(len(first), 0x5851F42D4C957F2D, np.uint64)
    for offset in range(size):
        place = first + offset
        inside = place < last
        part = np.where(inside, flat[np.where(inside, place, 0)] if len(flat) else np.uint64(0), np.uint64(offset))
        hashes = mix(hashes * _MIX + part)
    return hashes, ends


def mix(values: U64) -> U64:
    """The finaliser of splitmix64: every bit of the output depends on every bit of the input."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def unique_in_rows(hashes: U64, ends: I64) -> tuple[NDArray[np.uint32], I64]:
    """Each list's different shingles in 32 bits, sorted, and where each list starts (``B + 1``)."""
    row = np.repeat(np.arange(len(ends) - 1, dtype=np.uint64), np.diff(ends))
    keys = np.unique((row << np.uint64(32)) | (hashes >> np.uint64(32)))
    counts = np.bincount((keys >> np.uint64(32)).astype(np.int64), minlength=len(ends) - 1)
    return keys.astype(np.uint32), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def band_keys(shingles: NDArray[np.uint32], ends: I64, fixed: U64, bands: Bands) -> U64:
    """[bands, B]: lists with equal keys of a band agree in that band's minima and in ``fixed`` [B].

    A permutation is ``(a x + b) mod 2**64``, high half, of 32-bit shingles with odd ``a`` (multiply-shift).
    """
    random = np.random.default_rng(20250120)
    factors = random.integers(1, 2**63, bands.count * bands.rows, dtype=np.uint64) | np.uint64(1)
    shifts = random.integers(0, 2**63, bands.count * bands.rows, dtype=np.uint64)
    keys = np.empty((bands.count, len(ends) - 1), np.uint64)
    step = 4096  # lists at a time: what is worked on stays in the cache
    for begin in range(0, len(ends) - 1, step):
        until = min(len(ends) - 1, begin + step)
        wide = mix(shingles[ends[begin] : ends[until]].astype(np.uint64))
        starts = ends[begin:until] - ends[begin]
        for band in range(bands.count):
            key = fixed[begin:until] + np.uint64(band)
            for row in range(band * bands.rows, (band + 1) * bands.rows):
                minima = np.minimum.reduceat(wide * factors[row] + shifts[row], starts)
                key = mix(key * _MIX + minima)
            keys[band, begin:until] = key
    return keys


def jaccard(left: I64, right: I64, shingles: NDArray[np.uint32], ends: I64) -> NDArray[np.float64]:
    """The exact Jaccard similarity of the pairs (``left[i]``, ``right[i]``) of lists."""
    result = np.empty(len(left))
    sizes = np.diff(ends)
    step = 50_000
    for begin in range(0, len(left), step):
        a, b = left[begin : begin + step], right[begin : begin + step]
        both = np.concatenate([_members(a, shingles, ends), _members(b, shingles, ends)])
        both.sort()
        twice = both[1:][both[1:] == both[:-1]] >> np.uint64(32)
        common = np.bincount(twice.astype(np.int64), minlength=len(a))
        result[begin : begin + step] = common / (sizes[a] + sizes[b] - common)
    return result


def _members(rows: I64, shingles: NDArray[np.uint32], ends: I64) -> U64:
    """The shingles of ``rows``, each under the number of its pair."""
    counts = ends[rows + 1] - ends[rows]
    before = np.concatenate([[0], np.cumsum(counts)])
    places = np.repeat(ends[rows] - before[:-1], counts) + np.arange(before[-1])
    pair = np.repeat(np.arange(len(rows), dtype=np.uint64), counts)
    members: U64 = (pair << np.uint64(32)) | shingles[places].astype(np.uint64)
    return members


def token_lists_hash(lists: Iterable[Sequence[str]]) -> U64:
    """[B] a 64-bit hash of each whole list of tokens."""
    return np.array([hash_text("\x1f".join(tokens)) for tokens in lists], dtype=np.uint64)
