"""What was read once need not be read again: the cache of earlier texts, for prompts that begin as they do."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor


class Past(NamedTuple):
    """What stands before the T tokens of B rows in one layer, padded to S: its cache ``[parts, B, heads, S, width]``,
    and where each token may look, ``[B, 1, T, S + T]``."""

    cache: Tensor
    mask: Tensor


class PrefixCache:
    """Caches ``[layers, parts, heads, S, width]`` by the S tokens they belong to, the longest unused forgotten first.

    It knows nothing of weights: its owner clears it when they change. Every entry is whole, what entries share is
    stored in each.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._entries: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()
        self._where: dict[int, tuple[int, ...]] = {}  # hash of every beginning of an entry -> the entry

    def clear(self) -> None:
        self._entries.clear()
        self._where.clear()
        self._num_bytes = 0

    def store(self, ids: Sequence[int], cache: Tensor) -> None:
        """Takes ``cache`` without a copy, so it must not be a part of a larger tensor; what is larger than all that may
        be kept is not stored."""
        key = tuple(ids)
        if key in self._entries or cache.nbytes > self._max_bytes:
            return
        self._entries[key] = cache
        self._num_bytes += cache.nbytes
        self._where.update(dict.fromkeys(_hashes(key), key))
        while self._num_bytes > self._max_bytes:
            oldest, tensor = self._entries.popitem(last=False)
            self._num_bytes -= tensor.nbytes
            for number in _hashes(oldest):
                if self._where.get(number) == oldest:
                    del self._where[number]

    def longest(self, ids: Sequence[int]) -> Tensor | None:
        """The cache of the longest known beginning of ``ids`` that leaves a token to read, or ``None``."""
        hashes = list(_hashes(ids[:-1]))
        for length in range(len(hashes), 0, -1):  # a shorter one may be lost with the entry that brought it last
            key = self._where.get(hashes[length - 1])
            if key is not None and key[:length] == tuple(ids[:length]):  # and not two texts with one hash
                self._entries.move_to_end(key)
                return self._entries[key][:, :, :, :length]
        return None


def _hashes(ids: Sequence[int]) -> Iterator[int]:
    number = 0
    for token in ids:
        number = hash((number, token))
        yield number
