"""Sends and receives: complete, matched in order, and never a deadlock even where a send waits for its receiver."""

from __future__ import annotations

import pytest

from aha.parallel.schedule import Kind, Schedule, Task, build_1f1b, build_dualpipe, build_dualpipev, build_zb1p
from aha.parallel.simulate import gives, needs
from aha.parallel.transfers import Receive, Send, plan_transfers

SCHEDULES = [
    build_1f1b(4, 6), build_zb1p(4, 6), build_dualpipe(2, 4), build_dualpipe(4, 8), build_dualpipe(8, 20),
    build_dualpipev(1, 2), build_dualpipev(4, 9),
]  # fmt: skip


def test_two_ranks_by_hand() -> None:
    x, dx = Task(Kind.FORWARD, 0, 0), Task(Kind.INPUT, 1, 0)
    forward, backward = Task(Kind.FORWARD, 1, 0), Task(Kind.BACKWARD, 1, 0)
    first, last = plan_transfers(build_1f1b(2, 1))
    assert first == [x, Send(x, 1), Receive(dx, 1), Task(Kind.BACKWARD, 0, 0)]
    assert last == [Receive(x, 0), forward, backward, Send(dx, 0)]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: f"{s.name}-{len(s.ranks)}-{s.num_batches}")
def test_runs_to_its_end_when_every_send_waits_to_be_received(schedule: Schedule) -> None:
    """A rank at a task does it if it has what the task needs; a send is done when its receiver is at that receive."""
    steps = plan_transfers(schedule)
    at = [0] * len(steps)
    has: list[set[Task]] = [set() for _ in steps]
    moved = True
    while moved:
        moved = False
        for rank, own in enumerate(steps):
            while at[rank] < len(own):
                step = own[at[rank]]
                if isinstance(step, Receive):
                    break
                if isinstance(step, Send):
                    assert step.result in has[rank]
                    there = steps[step.peer]
                    if at[step.peer] == len(there) or there[at[step.peer]] != Receive(step.result, rank):
                        break
                    has[step.peer].add(step.result)
                    at[step.peer] += 1
                else:
                    assert has[rank] >= set(needs(step, schedule.num_stages)), f"rank {rank} lacks what {step} needs"
                    has[rank] |= set(gives(step))
                at[rank] += 1
                moved = True
    assert at == [len(own) for own in steps]
    tasks = [[step for step in own if isinstance(step, Task)] for own in steps]
    assert tasks == [[task for action in own for task in action] for own in schedule.ranks]
