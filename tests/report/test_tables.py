"""The Markdown tables: cells, bars and what is met."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from aha.report.summary import build_summary
from aha.report.tables import markdown_stage_table, seeds_table

WriteRun = Callable[..., Path]


def rows_of(table: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert len({len(row) for row in rows}) == 1
    return {row[0]: row[1:] for row in rows}


def test_stage_table_has_a_row_for_each_model(write_run: WriteRun) -> None:
    rows = rows_of(markdown_stage_table(build_summary(write_run())))
    assert rows["model"][:3] == ["pass@1 %", "cons@16 %", "pass@16 %"]
    assert rows["R1-Zero"][0].startswith("82.4 (") and rows["R1-Zero"][1] == "93.3"
    assert len(rows) == 12


def test_seeds_table_holds_means_bars_and_verdicts() -> None:
    def summary(seed: int, base: float, zero: float, ratio: float) -> dict[str, Any]:
        stages = {"base": {"pass@1": {"value": base}}, "r1_zero": {"pass@1": zero, "cons@16": zero + 0.1}}
        return {"seed": seed, "stages": stages, "curves": {"r1_zero": {"length_ratio": ratio}}}

    rows = rows_of(seeds_table([summary(0, 0.05, 0.8, 2.0), summary(1, 0.07, 0.5, 1.0)]))
    assert rows["figure"] == ["seed 0", "seed 1", "mean", "bar", "met"]
    assert rows["base pass@1"] == ["0.050", "0.070", "0.060", "≤ 0.15", "yes (2/2)"]
    assert rows["R1-Zero pass@1"] == ["0.800", "0.500", "0.650", "≥ 0.8", "no (1/2)"]
    assert rows["R1-Zero length, end / lowest"][2:] == ["1.500", "≥ 1.3", "yes (1/2)"]
    assert rows["R1 pass@1"] == ["–", "–", "–", "≥ 0.9", "–"]
