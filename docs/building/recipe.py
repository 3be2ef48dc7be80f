"""Blocks of the pages about a recipe: its stages and settings, and what its runs came to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aha.config import canonical
from aha.pipeline.graph import Pipeline
from aha.pipeline.recipe import load_pipeline
from aha.report.comparisons import markdown
from aha.report.names import percent
from aha.report.tables import markdown_stage_table, seeds_table
from building.results import Results, first_of
from building.table import table

MANY = 3  # stages with equal settings that a table heading still names one by one


def stages_of(recipe: str) -> Callable[[Results, Path], str]:
    """The stage table of the run with the lowest seed."""

    def block(results: Results, root: Path) -> str:
        summary = first_of(results, recipe)
        return "" if summary is None else f"Seed {summary['seed']}.\n\n" + markdown_stage_table(summary)

    return block


def seeds_of(recipe: str) -> Callable[[Results, Path], str]:
    """The claims over all seeds."""
    return lambda results, root: seeds_table(results[recipe]) if results.get(recipe) else ""


def findings_of(recipe: str, keys: str = "") -> Callable[[Results, Path], str]:
    """The report's sentences for the run with the lowest seed, beside what the paper says; of findings whose key begins
    with ``keys``."""

    def block(results: Results, root: Path) -> str:
        summary = first_of(results, recipe)
        if summary is None:
            return ""
        return "\n".join(
            f"- **{finding['title']}**: {finding['outcome']}. {finding['sentence']} "
            f"Paper: {finding['paper']} ({finding['source']})"
            for finding in summary["findings"]
            if finding["key"].startswith(keys)
        )

    return block


def arms_of(recipe: str) -> Callable[[Results, Path], str]:
    """The table of a recipe's comparison."""

    def block(results: Results, root: Path) -> str:
        summary = first_of(results, recipe)
        if summary is None:
            return ""
        return "\n\n".join(
            f"The base: pass@1 {percent(comparison['start'])}.\n\n{markdown(comparison)}"
            for comparison in summary["comparisons"].values()
        )

    return block


def graph_of(recipe: str) -> Callable[[Results, Path], str]:
    """Every stage but the evaluations, with what it reads."""

    def block(results: Results, root: Path) -> str:
        pipeline = load_pipeline(recipe, [])[0]
        rows = [
            (
                f"`{stage.name}`",
                f"[{stage.kind}](../src/aha/stages/{stage.kind}.py)",
                ", ".join(f"{edge}: `{source.name}`" for edge, source in stage.inputs.items()),
            )
            for stage in pipeline.stages
            if stage.kind != "evaluate"
        ]
        return table(("stage", "code", "reads"), rows)

    return block


def settings_of(recipe: str) -> Callable[[Results, Path], str]:
    """Every setting of every stage, one table a kind of stage; stages that share all values share a column."""

    def block(results: Results, root: Path) -> str:
        pipeline = load_pipeline(recipe, [])[0]
        kinds = dict.fromkeys(stage.kind for stage in pipeline.stages)
        return "\n\n".join(f"**{kind}**\n\n{_settings_table(pipeline, kind)}" for kind in kinds)

    return block


def _settings_table(pipeline: Pipeline, kind: str) -> str:
    columns: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for stage in pipeline.stages:
        if stage.kind == kind:
            columns.setdefault(tuple(_flat(canonical(stage.settings))), []).append(stage.name)
    headings = [_stages(names, alone=len(columns) == 1) for names in columns.values()]
    keys = [key for key, _ in next(iter(columns))]
    rows = {key: [dict(column)[key] for column in columns] for key in keys}
    if len(columns) <= MANY:
        return table(("setting", *headings), [(f"`{key}`", *values) for key, values in rows.items()])
    shared = [(f"`{key}`", values[0]) for key, values in rows.items() if len(set(values)) == 1]
    differing = {key: values for key, values in rows.items() if len(set(values)) > 1}
    turned = [(heading, *(values[i] for values in differing.values())) for i, heading in enumerate(headings)]
    return table(("stages", *(f"`{key}`" for key in differing)), turned) + "\n\n" + table(("setting", "all"), shared)


def _stages(names: Sequence[str], *, alone: bool) -> str:
    if len(names) <= MANY:
        return ", ".join(names)
    return f"all {len(names)} stages" if alone else f"{names[0]} … {names[-1]}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            text = "–" if value is None else str(value).replace("\n", "\\n").replace("|", "\\|")
            yield f"{prefix}{key}", f"`{text}`" if "<" in text else text
