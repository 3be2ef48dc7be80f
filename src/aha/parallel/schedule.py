"""Pipeline schedules as plain data: for every rank, what it computes, in order.

A stage is a slice of the model; a micro-batch goes through all stages forward and then backward. Where a stage lives is
not written anywhere: a rank computes what its list says, and a micro-batch goes to whoever has it in the list next.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from aha.errors import SettingError


class Kind(StrEnum):
    """What is computed of a stage; the letters are those of the zero-bubble papers and of torch."""

    FORWARD = "F"
    BACKWARD = "B"  # both of the following
    INPUT = "I"  # the gradient of the stage's input, for which the stage before waits
    WEIGHT = "W"  # the gradient of the stage's weights, for which nobody waits


class Task(NamedTuple):
    """``Task(Kind.FORWARD, stage=2, batch=5)``, written ``2F5``: the forward pass of micro-batch 5 through stage 2."""

    kind: Kind
    stage: int
    batch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{self.batch}"


Action = tuple[Task, ...]
"""One task; or a pair, the forward pass of one micro-batch and the backward pass of another that run as one."""


@dataclass(frozen=True)
class Schedule:
    """``ranks[r]`` is what rank ``r`` does, in order. Micro-batches are numbered over the whole batch."""

    name: str
    num_stages: int
    num_batches: int
    ranks: tuple[tuple[Action, ...], ...]

    @property
    def rank_of(self) -> dict[tuple[int, int], int]:
        """The rank that computes a stage for a micro-batch: ``{(stage, batch): rank}``."""
        return {(t.stage, t.batch): rank for rank, own in enumerate(self.ranks) for action in own for t in action}


def notation(action: Action) -> str:
    """``0F3`` for a task and ``(0F7;7B3)`` for a pair, as torch writes them."""
    return str(action[0]) if len(action) == 1 else f"({';'.join(map(str, action))})"


def build_1f1b(ranks: int, batches: int) -> Schedule:
    """One forward, one backward (PipeDream-Flush, 2006.09503, section 2.2): a stage a rank.

    ``SettingError`` for no rank or no micro-batch.
    """
    _require(ranks >= 1 and batches >= 1, "1F1B", "a rank and a micro-batch", ranks, batches)
    lists = []
    for rank in range(ranks):
        ahead = min(ranks - rank - 1, batches)
        forward = [(Task(Kind.FORWARD, rank, m),) for m in range(batches)]
        backward = [(Task(Kind.BACKWARD, rank, m),) for m in range(batches)]
        pairs = zip(forward[ahead:], backward, strict=False)
        steady = [action for pair in pairs for action in pair]
        lists.append((*forward[:ahead], *steady, *backward[batches - ahead :]))
    return Schedule("1F1B", ranks, batches, tuple(lists))


def build_zb1p(ranks: int, batches: int) -> Schedule:
    """1F1B with the backward pass split (ZB-H1, 2401.10241, section 2.1): rank r puts weights off by r micro-batches.

    So the last rank, for which all others wait, gives input gradients first, and what it put off fills the end; no rank
    holds more activations than rank 0 of 1F1B. ``SettingError`` for no rank or no micro-batch.
    """
    _require(ranks >= 1 and batches >= 1, "ZB1P", "a rank and a micro-batch", ranks, batches)
    lists = []
    for rank in range(ranks):
        ahead = min(ranks - rank - 1, batches)
        actions = [(Task(Kind.FORWARD, rank, m),) for m in range(ahead)]
        for m in range(batches):
            if ahead + m < batches:
                actions.append((Task(Kind.FORWARD, rank, ahead + m),))
            actions.append((Task(Kind.INPUT, rank, m),))
            if m >= rank:
                actions.append((Task(Kind.WEIGHT, rank, m - rank),))
        actions += [(Task(Kind.WEIGHT, rank, m),) for m in range(max(0, batches - rank), batches)]
        lists.append(tuple(actions))
    return Schedule("ZB1P", ranks, batches, tuple(lists))


def build_dualpipe(ranks: int, batches: int) -> Schedule:
    """DualPipe (DeepSeek-V3, 2412.19437, section 3.2.1): micro-batches enter at both ends and meet.

    The first half of the micro-batches goes from rank 0 to the last, the second half the other way, so that rank r
    holds stages r and ``ranks - 1 - r``. The two halves of the ranks do the same thing, each in its own direction.
    ``SettingError`` unless ``ranks`` is even and ``batches`` even and at least ``2 * ranks``.
    """
    fits = ranks >= 2 and ranks % 2 == 0 and batches % 2 == 0 and batches >= 2 * ranks
    _require(fits, "DualPipe", "an even number of ranks and an even number of at least twice as many micro-batches",
             ranks, batches)  # fmt: skip
    down, up = range(batches // 2), range(batches // 2, batches)
    lists = []
    for rank in range(ranks):
        near, far = (down, up) if rank < ranks // 2 else (up, down)
        place = min(rank, ranks - 1 - rank)
        lists.append(_eight_steps(ranks // 2, place, _Line(place, near), _Line(ranks - 1 - place, far)))
    return Schedule("DualPipe", ranks, batches, tuple(lists))


def build_dualpipev(ranks: int, batches: int) -> Schedule:
    """DualPipeV (github.com/deepseek-ai/DualPipe): DualPipe cut in half, the other half folded back.

    Rank r holds stages r and ``2 * ranks - 1 - r``; every micro-batch goes down the ranks and up again.
    ``SettingError`` unless ``batches`` is at least ``2 * ranks``.
    """
    fits = ranks >= 1 and batches >= 2 * ranks
    _require(fits, "DualPipeV", "at least twice as many micro-batches as ranks", ranks, batches)
    lists = []
    for rank in range(ranks):
        near, far = _Line(rank, range(batches)), _Line(2 * ranks - 1 - rank, range(batches))
        lists.append(_eight_steps(ranks, rank, near, far))
    return Schedule("DualPipeV", 2 * ranks, batches, tuple(lists))


class _Line:
    """One of the two stages of a rank and the micro-batches that pass it, in order."""

    def __init__(self, stage: int, batches: range) -> None:
        self.stage, self.num_batches = stage, len(batches)
        self._forward, self._backward = iter(batches), iter(batches)

    def forward(self) -> Task:
        return Task(Kind.FORWARD, self.stage, next(self._forward))

    def backward(self, kind: Kind = Kind.BACKWARD) -> Task:
        return Task(kind, self.stage, next(self._backward))


def _eight_steps(half: int, place: int, near: _Line, far: _Line) -> tuple[Action, ...]:
    """The published eight steps (``DualPipe.step`` and ``DualPipeV.step`` in github.com/deepseek-ai/DualPipe).

    ``half`` ranks lie between the end where micro-batches enter and the middle where the two directions meet; this one
    is ``place`` away from the end. ``near`` passes it early in the pipeline and ``far`` late.
    """
    actions: list[Action] = []
    owed: deque[Task] = deque()  # weight gradients put off, oldest first

    def split(line: _Line) -> None:
        task = line.backward(Kind.INPUT)
        actions.append((task,))
        owed.append(task._replace(kind=Kind.WEIGHT))

    def pay() -> None:
        actions.append((owed.popleft(),))

    ahead = half - place - 1
    for _ in range(2 * ahead):  # 1: fill the way to the middle
        actions.append((near.forward(),))
    for _ in range(place + 1):  # 2: the other direction arrives
        actions += [(near.forward(),), (far.forward(),)]
    for _ in range(ahead):  # 3: the first gradients come back; only what others wait for is hurried
        split(far)
        pay()
        actions.append((far.forward(),))
    for i in range(near.num_batches - 2 * half + place + 1):  # 4: every forward pass runs with a backward pass
        if i == 0 and ahead == 0:  # in the middle the first two do not, which shortens the bubble
            actions += [(near.forward(),), (far.backward(),)]
        else:
            actions.append((near.forward(), far.backward()))
        actions.append((far.forward(), near.backward()))
    for _ in range(ahead):  # 5: no micro-batch enters any more at this end
        actions += [(far.backward(),), (far.forward(), near.backward())]
    for i in range(2 * (place + 1)):  # 6: gradients alone; the second half puts its weights off
        line = (far, near)[i % 2]
        if i <= place:
            actions.append((line.backward(),))
        else:
            split(line)
    for _ in range(ahead):  # 7: weights fill the waiting
        pay()
        split(near)
    for _ in range(place + 1):  # 8: what is left
        pay()
    assert not owed
    return tuple(actions)


def _require(fits: bool, name: str, wanted: str, ranks: int, batches: int) -> None:
    if not fits:
        raise SettingError(f"{name} needs {wanted}; there are {ranks} ranks and {batches} micro-batches")
