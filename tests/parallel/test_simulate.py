"""The simulator: makespans and bubbles by hand, the published formulas, and schedules that cannot be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from aha.errors import InvariantError
from aha.parallel.schedule import Kind, Schedule, Task, build_1f1b, build_dualpipe, build_dualpipev, build_zb1p
from aha.parallel.simulate import Costs, bubble_1f1b, bubble_dualpipe, bubble_zb1p, simulate


def test_two_ranks_by_hand() -> None:
    """F 1, B 2: rank 1 starts at 1 and has 2 x 3 to do, then rank 0 needs 2 more."""
    first, last = simulate(build_1f1b(2, 2), Costs()).ranks
    assert [(span.start, span.end) for span in first] == [(0, 1), (1, 2), (4, 6), (7, 9)]
    assert [(span.start, span.end) for span in last] == [(1, 2), (2, 4), (4, 5), (5, 7)]


@pytest.mark.parametrize(
    ("build", "ranks", "batches", "pair", "makespan", "bubbles"),
    [
        (build_1f1b, 8, 20, 3, 81, [21] * 8),
        (build_zb1p, 8, 20, 3, 67, [7] * 8),
        (build_dualpipe, 8, 20, 3, 66, [6] * 8),
        (build_dualpipe, 8, 20, 2, 52, [1, 2, 3, 3, 3, 3, 2, 1]),
        (build_dualpipev, 4, 10, 3, 66, [6] * 4),
        (build_dualpipev, 4, 10, 2, 52, [1, 2, 3, 3]),
    ],
)
def test_eight_stages(
    build: Callable[[int, int], Schedule], ranks: int, batches: int, pair: float, makespan: float, bubbles: list[float]
) -> None:
    timeline = simulate(build(ranks, batches), Costs(pair=pair))
    assert timeline.makespan == makespan and timeline.bubbles == bubbles


COSTS = [Costs(), Costs(pair=2), Costs(2, 2, 2, 5), Costs(1, 1, 0.5, 2.25)]


@pytest.mark.parametrize("costs", COSTS)
@pytest.mark.parametrize(("stages", "batches"), [(4, 8), (4, 14), (6, 12), (8, 20), (12, 26)])
def test_bubbles_are_those_of_the_table(stages: int, batches: int, costs: Costs) -> None:
    """DeepSeek-V3, table 2; where a pair takes less than its parts, DualPipe's outer ranks idle less."""
    assert simulate(build_1f1b(stages, batches), costs).bubbles == [bubble_1f1b(stages, costs)] * stages
    for schedule in (build_dualpipe(stages, batches), build_dualpipev(stages // 2, batches)):
        assert max(simulate(schedule, costs).bubbles) == pytest.approx(bubble_dualpipe(stages, costs))


@pytest.mark.parametrize("costs", [Costs(), Costs(2, 2, 2), Costs(1, 1.5, 1), Costs(1.25, 1.25, 1)])
@pytest.mark.parametrize(("ranks", "batches"), [(2, 4), (4, 8), (8, 20)])
def test_zero_bubble_is_that_of_the_table(ranks: int, batches: int, costs: Costs) -> None:
    assert max(simulate(build_zb1p(ranks, batches), costs).bubbles) == pytest.approx(bubble_zb1p(ranks, costs))


@pytest.mark.parametrize("stages", [2, 4, 8])
def test_activations_are_those_of_the_table_and_do_not_grow_with_the_batch(stages: int) -> None:
    for batches in (2 * stages, 6 * stages):
        assert simulate(build_1f1b(stages, batches), Costs()).peak_activations == list(range(stages, 0, -1))
        assert simulate(build_zb1p(stages, batches), Costs()).peak_activations == [stages] * stages
        assert simulate(build_dualpipe(stages, batches), Costs()).peak_activations == [stages + 1] * stages
        assert simulate(build_dualpipev(stages // 2, batches), Costs()).peak_activations == [stages + 1] * (stages // 2)


def test_a_schedule_that_waits_for_ever_says_where() -> None:
    good = build_1f1b(2, 2)
    (f0, f1, b0, b1), last = good.ranks
    with pytest.raises(InvariantError, match="rank 0 at 0B0, rank 1 at 1F1"):
        simulate(dataclasses.replace(good, ranks=((f0, b0, f1, b1), (last[0], last[2], last[1], last[3]))), Costs())


def test_a_task_left_out_done_twice_or_unknown_is_named() -> None:
    good = build_1f1b(2, 2)
    first, last = good.ranks
    strange = (Task(Kind.FORWARD, 5, 0),)
    with pytest.raises(InvariantError, match="done twice: 0F0; never done: 0I1, 0W1; unknown: 5F0"):
        simulate(dataclasses.replace(good, ranks=((*first[:3], first[0], strange), last)), Costs())


@pytest.mark.parametrize(
    ("costs", "bubble", "formula"),
    [(Costs(2, 1, 1, 4), 12, 9), (Costs(1, 2, 1, 4), 11, 12), (Costs(1, 1, 1.25, 3.25), 6, 5.25)],
)
def test_the_table_is_an_estimate_where_parts_differ(costs: Costs, bubble: float, formula: float) -> None:
    assert max(simulate(build_dualpipe(8, 20), costs).bubbles) == bubble
    assert bubble_dualpipe(8, costs) == formula
