"""What was read once need not be read again: the cache of earlier texts, for prompts that begin as they do."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor


class Kept(Protocol):
    """The cache of the first ``length`` tokens of a text, as a runner has it: of its own memory, ``nbytes`` of it."""

    @property
    def length(self) -> int: ...

    @property
    def nbytes(self) -> int: ...

    def first(self, length: int) -> Kept:
        """Of fewer tokens; the memory is shared."""
        ...


@dataclass(frozen=True, slots=True)
class Plain:
    """A cache ``[layers, parts, heads, S, width]``."""

    cache: Tensor

    @property
    def length(self) -> int:
        return self.cache.shape[-2]

    @property
    def nbytes(self) -> int:
        return self.cache.nbytes

    def first(self, length: int) -> Plain:
        return Plain(self.cache[:, :, :, :length])


class Past(NamedTuple):
    """What stands before the T tokens of B rows in one layer, padded to S: its cache ``[parts, B, heads, S, width]``,
    and where each token may look, ``[B, 1, T, S + T]``."""

    cache: Tensor
    mask: Tensor


class Lines(NamedTuple):
    """One layer's cache as B rows decode with it: ``all`` of it by lines, ``[parts * slots * heads * columns, width]``,
    in which is written, and of each part what is read, ``[B * heads, columns, width]``; of the first, which scores are
    made of, ``[B * heads, width, columns]`` as well."""

    all: Tensor
    parts: tuple[Tensor, ...]
    across: Tensor

    @classmethod
    def of(cls, arena: Tensor, num_rows: int) -> Lines:
        """Of a layer's arena ``[parts, slots, heads, columns, width]``."""
        parts = arena[:, :num_rows].flatten(1, 2).unbind()
        return cls(arena.view(-1, arena.shape[-1]), parts, parts[0].transpose(1, 2))


class _Entry(NamedTuple):
    ids: tuple[int, ...]
    kept: Kept
    numbers: tuple[int, ...]  # hashes of the beginnings that it alone answers for


class PrefixCache:
    """Caches by the tokens they belong to, the longest unused forgotten first.

    It knows nothing of weights: its owner clears it when they change. Every entry is whole, what entries share is
    stored in each. ``hashes`` are those of ``hash_beginnings``, which callers have already of the most of a text.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._entries: OrderedDict[int, _Entry] = OrderedDict()  # by the hash of the whole text
        self._where: dict[int, int] = {}  # hash of every beginning of an entry -> that of the entry

    def clear(self) -> None:
        self._entries.clear()
        self._where.clear()
        self._num_bytes = 0

    def store(self, ids: Sequence[int], hashes: list[int], kept: Kept, *, behind: int = 0) -> None:
        """Takes ``kept`` without a copy, so it must not be a part of something larger; what is larger than all that may
        be kept is not stored. The text of the first ``behind`` tokens may be an entry itself: that one then answers
        for the beginnings of both, and counts as used after this."""
        key, size = hashes[-1], kept.nbytes
        if key in self._entries or size > self._max_bytes:
            return
        shared = bool(behind) and hashes[behind - 1] in self._entries
        numbers = tuple(hashes[behind:] if shared else hashes)
        self._entries[key] = _Entry(tuple(ids), kept, numbers)
        if shared:
            self._entries.move_to_end(hashes[behind - 1])
        self._num_bytes += size
        self._where.update(dict.fromkeys(numbers, key))
        while self._num_bytes > self._max_bytes:
            oldest, entry = self._entries.popitem(last=False)
            self._num_bytes -= entry.kept.nbytes
            for number in entry.numbers:
                if self._where.get(number) == oldest:
                    del self._where[number]

    def holds(self, hashes: list[int]) -> bool:
        """Whether a text of these numbers is an entry of its own."""
        return hashes[-1] in self._entries

    def has(self, ids: Sequence[int], hashes: list[int]) -> bool:
        """Whether all of ``ids`` is known."""
        key = self._where.get(hashes[-1])
        return key is not None and self._entries[key].ids[: len(ids)] == tuple(ids)

    def longest(self, ids: Sequence[int], hashes: list[int]) -> Kept | None:
        """The cache of the longest known beginning of ``ids`` that leaves a token to read, or ``None``."""
        for length in range(len(ids) - 1, 0, -1):  # a shorter one may be lost with the entry that brought it last
            key = self._where.get(hashes[length - 1])
            if key is not None and self._entries[key].ids[:length] == tuple(ids[:length]):  # and not by chance alone
                self._entries.move_to_end(key)
                return self._entries[key].kept.first(length)
        return None


def hash_beginnings(ids: Sequence[int], behind: Sequence[int] = ()) -> list[int]:
    """A number for every beginning of ``ids``; for those of a longer text, where ``behind`` are the numbers of what
    stands before ``ids``."""
    hashes = list(behind)
    number = hashes[-1] if hashes else 0
    for token in ids:
        number = hash((number, token))
        hashes.append(number)
    return hashes
