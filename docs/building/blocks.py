"""Which block is made by what, and the pages with every block made again."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from aha.errors import UsageError
from building import data, evaluate, fp8, mla, moe, mtp, papers, pipeline, preferences, r1_tiny, readme, search, speed
from building.recipe import arms_of, findings_of, graph_of, seeds_of, settings_of, stages_of
from building.results import Results, load_results

BLOCK = re.compile(r"(<!-- generated:([\w-]+) -->\n)(.*?)(<!-- /generated -->)", re.DOTALL)

BLOCKS: dict[str, Callable[[Results, Path], str]] = {
    "demo": readme.demo,
    "figure": readme.figure,
    "commands": readme.commands,
    "house": readme.house,
    "r1_tiny-graph": graph_of("r1_tiny"),
    "r1_tiny-settings": settings_of("r1_tiny"),
    "r1_tiny-stages": stages_of("r1_tiny"),
    "r1_tiny-seeds": seeds_of("r1_tiny"),
    "r1_tiny-findings": findings_of("r1_tiny"),
    "r1_tiny-last-stage": findings_of("r1_tiny", "last_stage"),
    "sizes": r1_tiny.sizes,
    "r1_real-graph": graph_of("r1_real"),
    "r1_real-settings": settings_of("r1_real"),
    "r1_real-stages": stages_of("r1_real"),
    "r1_real-findings": findings_of("r1_real"),
    "v3_tiny-graph": graph_of("v3_tiny"),
    "v3_tiny-settings": settings_of("v3_tiny"),
    "v3_tiny-stages": stages_of("v3_tiny"),
    "v3_tiny-findings": findings_of("v3_tiny"),
    "controls_tiny-arms": arms_of("controls_tiny"),
    "controls_tiny-settings": settings_of("controls_tiny"),
    "distill_tiny-arms": arms_of("distill_tiny"),
    "distill_tiny-settings": settings_of("distill_tiny"),
    "unsuccessful_tiny-arms": arms_of("unsuccessful_tiny"),
    "unsuccessful_tiny-settings": settings_of("unsuccessful_tiny"),
    "unsuccessful_tiny-scorer": findings_of("unsuccessful_tiny", "step_labels"),
    "search_tiny-scorer": findings_of("search_tiny"),
    "search-student": search.search_of("student"),
    "search-r1": search.search_of("r1"),
    "search-countdown": search.search_of("countdown"),
    "preferences_real": preferences.held_out,
    "algorithms": papers.algorithms,
    "sft-presets": data.presets,
    "coverage": evaluate.coverage,
    "harness": evaluate.harness,
    "pipeline": pipeline.schedules,
    "cache": mla.cache,
    "expert-load": moe.expert_load,
    "mtp": mtp.acceptance,
    "mtp-time": mtp.time_saved,
    "fp8": fp8.errors,
    "rollout-speed": speed.rollout_speed_in("."),
    "rollout-speed-avx2": speed.rollout_speed_in("avx2"),
    "where": speed.where,
    "where-update": speed.where_update,
    "train-speed": speed.train_speed_in("train"),
    "train-speed-avx2": speed.train_speed_in("avx2/train"),
    "cost": speed.cost,
    "group": speed.group,
}


def pages(root: Path) -> list[Path]:
    """Every page of the documentation."""
    return [*sorted(root.glob("*.md")), *sorted((root / "docs").rglob("*.md"))]


def render(root: Path) -> dict[Path, str]:
    """Each page with its generated blocks made again. ``UsageError`` for a marker whose block nobody makes."""
    results = load_results(root)
    rendered = {}
    for path in pages(root):

        def fill(match: re.Match[str], path: Path = path) -> str:
            opening, name, _, closing = match.groups()
            if name not in BLOCKS:
                raise UsageError(f"{path.name}: no generated block {name!r}; there are {', '.join(BLOCKS)}")
            text = BLOCKS[name](results, root).rstrip("\n")
            return f"{opening}{text}\n{closing}" if text else opening + closing

        rendered[path] = BLOCK.sub(fill, path.read_text(encoding="utf-8"))
    return rendered
