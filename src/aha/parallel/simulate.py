"""How long a schedule takes and what it holds, if every task takes a given time and sending takes none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from aha.errors import InvariantError
from aha.parallel.schedule import Action, Kind, Schedule, Task, notation


@dataclass(frozen=True)
class Costs:
    """Time of each task of one stage; ``pair`` is a forward and a full backward pass that run as one.

    Nothing overlaps where ``pair`` is their sum; it hides all communication where it is less.
    """

    forward: float = 1.0
    input: float = 1.0
    weight: float = 1.0
    pair: float = 3.0

    @property
    def backward(self) -> float:
        """A full backward pass."""
        return self.input + self.weight

    def of(self, action: Action) -> float:
        """The time an action takes."""
        if len(action) == 2:
            return self.pair
        by_kind = {Kind.FORWARD: self.forward, Kind.BACKWARD: self.backward, Kind.INPUT: self.input}
        return by_kind.get(action[0].kind, self.weight)


class Span(NamedTuple):
    """``Span(action, 3.0, 5.0)``: when an action ran."""

    action: Action
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """``ranks[r]`` is when each action of rank r ran."""

    schedule: Schedule
    ranks: tuple[tuple[Span, ...], ...]

    @property
    def makespan(self) -> float:
        """From the start to the end of the last rank."""
        return max(spans[-1].end for spans in self.ranks)

    @property
    def bubbles(self) -> list[float]:
        """The time each rank idles."""
        return [self.makespan - sum(span.end - span.start for span in spans) for spans in self.ranks]

    @property
    def peak_activations(self) -> list[int]:
        """The most micro-batches whose activations each rank holds at a time, each of its stages counted alone.

        A stage's activations are held from the start of its forward pass to the end of its weights' gradient.
        """
        return [max(_held(spans)) for spans in self.ranks]


def _held(spans: tuple[Span, ...]) -> Iterator[int]:
    held = 0
    for span in spans:
        held += sum(task.kind is Kind.FORWARD for task in span.action)
        yield held
        held -= sum(task.kind in (Kind.BACKWARD, Kind.WEIGHT) for task in span.action)


def simulate(schedule: Schedule, costs: Costs) -> Timeline:
    """Every action starts as soon as its rank is free and what it needs is there.

    ``InvariantError`` for a schedule that does a task twice or never, or whose ranks wait for each other for ever.
    """
    _check_complete(schedule)
    done: dict[Task, float] = {}
    spans: list[list[Span]] = [[] for _ in schedule.ranks]
    moved = True
    while moved:
        moved = False
        for own, actions in zip(spans, schedule.ranks, strict=True):
            while len(own) < len(actions):
                action = actions[len(own)]
                needed = [need for task in action for need in needs(task, schedule.num_stages)]
                if not all(need in done for need in needed):
                    break
                free = own[-1].end if own else 0.0
                start = max([free, *(done[need] for need in needed)])
                own.append(Span(action, start, start + costs.of(action)))
                done |= {result: own[-1].end for task in action for result in gives(task)}
                moved = True
    stuck = [
        f"rank {rank} at {notation(actions[len(own)])}"
        for rank, (own, actions) in enumerate(zip(spans, schedule.ranks, strict=True))
        if len(own) < len(actions)
    ]
    if stuck:
        raise InvariantError(f"{schedule.name}: the ranks wait for each other for ever: {', '.join(stuck)}")
    return Timeline(schedule, tuple(map(tuple, spans)))


def needs(task: Task, num_stages: int) -> list[Task]:
    """What must be done before ``task`` can begin, in the terms of :func:`gives`."""
    if task.kind is Kind.FORWARD:
        return [task._replace(stage=task.stage - 1)] if task.stage else []
    if task.kind is Kind.WEIGHT:
        return [task._replace(kind=Kind.INPUT)]
    forward = task._replace(kind=Kind.FORWARD)
    last = task.stage == num_stages - 1
    return [forward] if last else [forward, Task(Kind.INPUT, task.stage + 1, task.batch)]


def gives(task: Task) -> list[Task]:
    """What is done once ``task`` is: itself, or the two halves of a full backward pass."""
    if task.kind is Kind.BACKWARD:
        return [task._replace(kind=Kind.INPUT), task._replace(kind=Kind.WEIGHT)]
    return [task]


def _check_complete(schedule: Schedule) -> None:
    done = sorted(result for own in schedule.ranks for action in own for task in action for result in gives(task))
    twice = {str(a) for a, b in pairwise(done) if a == b}
    stages, batches = range(schedule.num_stages), range(schedule.num_batches)
    every = {Task(kind, s, m) for kind in (Kind.FORWARD, Kind.INPUT, Kind.WEIGHT) for s in stages for m in batches}
    wrong = {
        "done twice": twice,
        "never done": set(map(str, every.difference(done))),
        "unknown": set(map(str, set(done) - every)),
    }
    found = [f"{what}: {', '.join(sorted(tasks)[:8])}" for what, tasks in wrong.items() if tasks]
    if found:
        raise InvariantError(f"{schedule.name} of {schedule.num_stages} stages: {'; '.join(found)}")


def bubble_1f1b(ranks: int, costs: Costs) -> float:
    """DeepSeek-V3 (2412.19437), table 2."""
    return (ranks - 1) * (costs.forward + costs.backward)


def bubble_zb1p(ranks: int, costs: Costs) -> float:
    """DeepSeek-V3 (2412.19437), table 2."""
    return (ranks - 1) * (costs.forward + costs.backward - 2 * costs.weight)


def bubble_dualpipe(stages: int, costs: Costs) -> float:
    """DeepSeek-V3 (2412.19437), table 2; of DualPipeV too, by its stages, of which it has twice as many as ranks.

    It is what the rank idles that idles most, exactly where forward and input gradient take the same time and the
    weights' no longer. Elsewhere it is an estimate: the schedule idles more where forward or the weights take longer
    than the input gradient, and less where forward takes less.
    """
    return (stages // 2 - 1) * (costs.pair + costs.backward - 3 * costs.weight)
