"""A schedule with its sends and receives: what each rank computes, sends and awaits, without deadlock."""

from __future__ import annotations

from typing import NamedTuple

from aha.parallel.schedule import Schedule, Task
from aha.parallel.simulate import Costs, gives, needs, simulate


class Send(NamedTuple):
    """``Send(Task(Kind.FORWARD, 2, 5), peer=3)``: what stage 2 made of micro-batch 5 goes to rank 3.

    Of a task ``I``, it is the gradient of that stage's input.
    """

    result: Task
    peer: int


class Receive(NamedTuple):
    """``Receive(Task(Kind.FORWARD, 2, 5), peer=2)``: the other end of a :class:`Send`; ``peer`` is who sends."""

    result: Task
    peer: int


Step = Task | Send | Receive


def plan_transfers(schedule: Schedule) -> list[list[Step]]:
    """The steps of every rank; of a pair, the forward pass comes first.

    One order over all ranks underlies the lists: that in which tasks end when all take the same time. A result is sent
    as soon as it is there, and its receiver begins to listen at the same place of that order, before the task that
    needs it. So any two ranks name their transfers in the same order (they need no tags), and even if every send
    waited until it is received, the first step in that order that is not done could always be done.
    """
    rank_of = schedule.rank_of
    asked_by: dict[Task, int] = {}
    for own in schedule.ranks:
        for task in (task for action in own for task in action):
            asked = [need for need in needs(task, schedule.num_stages) if need.stage != task.stage]
            asked_by |= dict.fromkeys(asked, rank_of[task.stage, task.batch])
    timeline = simulate(schedule, Costs())
    ends = sorted((span.end, rank, span.action) for rank, spans in enumerate(timeline.ranks) for span in spans)
    steps: list[list[Step]] = [[] for _ in schedule.ranks]
    for _, rank, action in ends:
        for task in action:
            steps[rank].append(task)
            for result in gives(task):
                peer = asked_by.get(result, rank)
                if peer != rank:
                    steps[rank].append(Send(result, peer))
                    steps[peer].append(Receive(result, rank))
    return steps
