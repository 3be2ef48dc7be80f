"""The scheduler against its own promises, on random schedules."""

from __future__ import annotations

import random

import pytest

from aha.rollout.native.scheduler import Scheduler


def test_small_schedule_by_hand() -> None:
    scheduler = Scheduler([[9, 9], [9, 9]], [5, 7], num_slots=3)
    plan = scheduler.advance([], 0)
    assert [(slot, row.group, row.member) for slot, row in plan.admitted] == [(0, 0, 0), (1, 0, 1), (2, 1, 0)]
    assert (plan.prefill, plan.release, plan.moves) == ((0, 1), (0,), ())
    assert scheduler.longest(0) == 8  # prompt of 7 and the token fed now
    plan = scheduler.advance([1], 4)
    assert [(slot, row.group, row.member) for slot, row in plan.admitted] == [(1, 1, 1)]
    assert (plan.prefill, plan.release, plan.moves) == ((), (1,), ())
    assert scheduler.longest(4) == 12
    plan = scheduler.advance([0], 5)  # nobody waits: the last row moves down
    assert (plan.moves, plan.admitted) == (((2, 0),), ())
    assert scheduler.row(0).member == 0 and scheduler.row(0).group == 1
    assert scheduler.advance([0, 1], 6).moves == ()
    assert scheduler.num_live == 0


@pytest.mark.parametrize("case", range(30))
def test_random_schedules_keep_the_promises(case: int) -> None:
    rng = random.Random(case)
    sizes = [rng.randint(0, 5) for _ in range(rng.randint(1, 8))]
    lengths = [rng.randint(1, 9) for _ in sizes]
    num_slots = rng.randint(1, 7)
    limits = [[rng.randint(1, 3) for _ in range(size)] for size in sizes]
    scheduler = Scheduler(limits, lengths, num_slots)
    admitted: list[int] = []
    cells: dict[int, tuple[int, int]] = {}  # what the device would hold in each slot
    born: dict[tuple[int, int], int] = {}
    known: set[int] = set()
    done: list[tuple[int, int]] = []
    finished: list[int] = []
    for step in range(1000):
        done += [cells.pop(slot) for slot in finished]
        plan = scheduler.advance(finished, step)
        for source, target in plan.moves:
            assert target not in cells
            cells[target] = cells.pop(source)
        known |= set(plan.prefill)
        for slot, row in plan.admitted:
            assert slot not in cells and row.group in known
            cells[slot] = (row.group, row.member)
            born[row.group, row.member] = step
            admitted.append(limits[row.group][row.member])
        known -= set(plan.release)
        assert sorted(cells) == list(range(scheduler.num_live))
        assert all((scheduler.row(s).group, scheduler.row(s).member) == cells[s] for s in cells)
        total_left = sum(sizes) - len(done) - len(cells)
        assert total_left == 0 or len(cells) == num_slots  # no idle slot while somebody waits
        if not cells:
            break
        assert scheduler.longest(step) == max(lengths[g] + step - born[g, m] + 1 for g, m in cells.values())
        finished = [slot for slot in cells if rng.random() < 0.3]
    assert not known
    assert sorted(done) == [(p, g) for p, size in enumerate(sizes) for g in range(size)]
    assert admitted == sorted(admitted, reverse=True)  # who may become longest went first
