"""Which sequence sits in which cache row: continuous batching over all samples of all groups, in pure Python.

The live rows are always slots ``0 .. num_live - 1``, so that the device works on one dense block. When rows finish,
waiting sequences take their slots at once; where none wait, the highest live rows move down into the holes. Samples of
a group are admitted one by one, as slots allow: its prompt is prefilled before the first and forgotten after the last.
Who may become longest goes first, so that few rows are left alone at the end; among equals the order given stays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """Sample ``member`` of ``group``, live since decode step ``born``, behind a prompt of ``prompt_length`` tokens."""

    group: int
    member: int
    prompt_length: int
    born: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do before the next decode step: first ``moves``, then prefill, then admit, then release.

    ``moves``: (from slot, to slot). ``prefill``: groups whose first sample is admitted now. ``admitted``: (slot, row).
    ``release``: groups whose last sample is admitted now; nobody needs their prompt any more.
    """

    moves: tuple[tuple[int, int], ...]
    prefill: tuple[int, ...]
    admitted: tuple[tuple[int, Row], ...]
    release: tuple[int, ...]


class Scheduler:
    """Queue and slots. Sample ``g`` of group ``p`` may have ``limits[p][g]`` tokens behind ``prompt_lengths[p]``."""

    def __init__(self, limits: Sequence[Sequence[int]], prompt_lengths: Sequence[int], num_slots: int) -> None:
        assert num_slots >= 1 and len(limits) == len(prompt_lengths)
        self._to_admit = [len(own) for own in limits]
        self._prompt_lengths = tuple(prompt_lengths)
        samples = [(p, g) for p, own in enumerate(limits) for g in range(len(own))]
        self._waiting = deque(sorted(samples, key=lambda sample: -limits[sample[0]][sample[1]]))
        self._read: set[int] = set()
        self._num_slots = num_slots
        self._rows: list[Row] = []
        self._headroom = 0

    @property
    def num_live(self) -> int:
        """Live rows; they are slots ``0 .. num_live - 1``."""
        return len(self._rows)

    def row(self, slot: int) -> Row:
        """The sequence in ``slot``."""
        return self._rows[slot]

    def longest(self, step: int) -> int:
        """Cache columns that the longest live row needs at decode step ``step``: its prompt and all tokens fed."""
        return self._headroom + step + 1

    def advance(self, finished: Iterable[int], step: int) -> Plan:
        """Frees the slots ``finished`` and fills what is free; ``step`` is the decode step that comes next."""
        moves: list[tuple[int, int]] = []
        prefill: list[int] = []
        admitted: list[tuple[int, Row]] = []
        release: list[int] = []
        holes = deque(sorted(finished))
        assert len(set(holes)) == len(holes) and all(0 <= slot < len(self._rows) for slot in holes)
        while self._waiting and (holes or len(self._rows) < self._num_slots):
            group, member = self._waiting.popleft()
            row = Row(group, member, self._prompt_lengths[group], step)
            if holes:
                slot = holes.popleft()
                self._rows[slot] = row
            else:
                slot = len(self._rows)
                self._rows.append(row)
            admitted.append((slot, row))
            if group not in self._read:
                self._read.add(group)
                prefill.append(group)
            self._to_admit[group] -= 1
            if not self._to_admit[group]:
                release.append(group)
        while holes:
            last = len(self._rows) - 1
            if holes[-1] == last:
                holes.pop()
            else:
                slot = holes.popleft()
                self._rows[slot] = self._rows[last]
                moves.append((last, slot))
            self._rows.pop()
        self._headroom = max((row.prompt_length - row.born for row in self._rows), default=0)
        return Plan(tuple(moves), tuple(prefill), tuple(admitted), tuple(release))
