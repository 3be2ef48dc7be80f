"""Pipeline schedules compared by simulation: no clock runs, the times of the tasks are given."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

from aha.errors import UsageError
from aha.parallel.draw import draw_timelines
from aha.parallel.schedule import Schedule, build_1f1b, build_dualpipe, build_dualpipev, build_zb1p
from aha.parallel.simulate import Costs, bubble_1f1b, bubble_dualpipe, bubble_zb1p, simulate
from benchmarks.setting import versions


def measure(
    *, ranks: int = 8, micro_batches: int = 20, costs: str = "1,1,1,2", picture: Path | None = Path("pipeline.png")
) -> dict[str, Any]:
    """Schedules of ``ranks`` stages and a batch of ``micro_batches``; DualPipeV has half of the ranks, and of those.

    ``costs`` are the times of forward, input gradient, weights' gradient and an overlapped pair of forward and full
    backward. ``UsageError`` for other than four positive numbers.
    """
    times = _parse(costs)
    schedules: list[tuple[Schedule, float, int]] = [
        (build_1f1b(ranks, micro_batches), bubble_1f1b(ranks, times), 1),
        (build_zb1p(ranks, micro_batches), bubble_zb1p(ranks, times), 1),
        (build_dualpipe(ranks, micro_batches), bubble_dualpipe(ranks, times), 2),
        (build_dualpipev(ranks // 2, micro_batches // 2), bubble_dualpipe(ranks, times), 2),
    ]
    timelines = [simulate(schedule, times) for schedule, _, _ in schedules]
    if picture is not None:
        draw_timelines(timelines, picture)
        print(f"wrote {picture}", file=sys.stderr)
    rows = [
        {
            "name": schedule.name,
            "ranks": len(schedule.ranks),
            "stages": schedule.num_stages,
            "micro_batches": schedule.num_batches,
            "makespan": timeline.makespan,
            "formula": formula,
            "bubbles": timeline.bubbles,
            "idle_share": round(sum(timeline.bubbles) / len(timeline.bubbles) / timeline.makespan, 4),
            "peak_activations": timeline.peak_activations,
            "stages_per_rank": held,
        }
        for timeline, (schedule, formula, held) in zip(timelines, schedules, strict=True)
    ]
    return {
        "benchmark": "pipeline",
        "setting": {"ranks": ranks, "micro_batches": micro_batches, "costs": vars(times)},
        "rows": rows,
        "ratios": {},
        "notes": [
            f"a pair takes {times.pair:g}, its parts in turn {times.forward + times.backward:g}",
            "simulated: sending takes no time; formula: the bubble of table 2 of DeepSeek-V3 (2412.19437)",
            "bubbles and peak activations are rank by rank, activations in micro-batches of one stage",
        ],
        "versions": versions(),
    }


def _parse(costs: str) -> Costs:
    try:
        forward, gradient, weight, pair = map(float, costs.split(","))
    except ValueError:
        forward = gradient = weight = pair = 0.0
    if not all(0 < cost < math.inf for cost in (forward, gradient, weight, pair)):
        raise UsageError(
            f"--costs {costs}: wants four positive numbers, such as 1,1,1,2: forward, input gradient, weights' "
            "gradient, overlapped pair of forward and full backward"
        )
    return Costs(forward, gradient, weight, pair)
