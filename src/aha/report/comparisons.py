"""A comparison of several ways to train, each over several seeds: one table and two figures for what may be a hundred
stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

from aha.report.names import model_label, percent
from aha.report.plots import gain_plot, overlay_plot
from aha.report.reading import Measure, Run, Stage, parse_measure, series
from aha.report.tables import cell

HEADS = ("arm", "gain, points", "pass@1, %", "format, %", "length", "seeds")


def rows(comparison: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The cells of the table, best first: ``("GRPO", "+49.9 (47.1 to 52.7)", "57.2 (54.4–60.0)", ...)``; last the
    models that stand beside."""
    arms = comparison["arms"]
    found: list[tuple[str, ...]] = []
    for arm in sorted(arms, key=lambda arm: -(arms[arm]["gain"]["value"] or 0.0)):
        measures = (_with_bounds(key, arms[arm][key]) for key in ("pass@1", "format", "length"))
        found.append((model_label(arm), _gain(parse_measure(arms[arm]["gain"])), *measures, str(arms[arm]["seeds"])))
    for model, measures in comparison.get("beside", {}).items():
        cells = (_with_bounds(key, measures[key]) for key in ("pass@1", "format", "length"))
        found.append((model_label(model), "–", *cells, "–"))
    return found


def best_over(comparison: Mapping[str, Any]) -> str:
    """``Distilled is +29.8 points (24.1 to 35.5) over Direct RL.``; empty where there is nothing to say."""
    said = [
        f"{_gain(measure)} over {model_label(arm)}"
        for arm, entry in comparison.get("best_over", {}).items()
        if (measure := parse_measure(entry)) is not None
    ]
    if not said:
        return ""
    return f"{model_label(comparison['best'])}, in points of pass@1 and seed by seed: {'; '.join(said)}."


def _gain(measure: Measure | None) -> str:
    if measure is None:
        return "–"
    bounds = "" if measure.low is None else f" ({100 * measure.low:+.1f} to {100 * (measure.high or 0.0):+.1f})"
    return f"{100 * measure.value:+.1f}{bounds}"


def _with_bounds(key: str, entry: Any) -> str:
    measure = parse_measure(entry)
    if measure is None:
        return "–"
    value, bounds = cell(key, measure)
    return f"{value} ({bounds})" if bounds else value


def markdown(comparison: Mapping[str, Any]) -> str:
    """The table in Markdown."""
    lines = [f"| {' | '.join(HEADS)} |", f"|{' --- |' * len(HEADS)}"]
    table = lines + [f"| {' | '.join(row)} |" for row in rows(comparison)]
    return "\n".join([*table, *(["", said] if (said := best_over(comparison)) else [])])


def section(run: Run, summary: Mapping[str, Any]) -> str:
    """The report's section: empty where the recipe compares nothing."""
    return "".join(_one(run, stage, summary["comparisons"].get(stage.name)) for stage in run.of_kind("compare"))


def gains(comparison: Mapping[str, Any]) -> dict[str, Measure]:
    """Arm -> its gain over the start."""
    found = {arm: parse_measure(entry["gain"]) for arm, entry in comparison["arms"].items()}
    return {arm: gain for arm, gain in found.items() if gain is not None}


def curves_of(run: Run, stage: Stage) -> list[Stage]:
    """The mean curve of each arm that has taken steps of RL."""
    return [curve for arm in stage.settings.get("arms", ()) if (curve := mean_curve(run, stage, arm)).rows]


def _one(run: Run, stage: Stage, comparison: Mapping[str, Any] | None) -> str:
    curves = curves_of(run, stage)
    figures = [gain_plot(gains(comparison))] if comparison else []
    if curves:
        figures.append(overlay_plot(curves, "accuracy", "accuracy on training prompts"))
        figures.append(overlay_plot(curves, "length", "tokens a response"))
    drawn = "".join(f"<figure>{figure}</figure>" for figure in figures)
    if comparison is None:
        waiting = f'<p class="pending-note">{escape(stage.name)}: its arms have not all run yet.</p>'
        return waiting + (f'<div class="figures">{drawn}</div>' if drawn else "")
    heads = "".join(f"<th>{escape(head)}</th>" for head in HEADS)
    body = "".join(
        f'<tr><th scope="row">{escape(arm)}</th>{"".join(f"<td>{escape(c)}</td>" for c in cells)}</tr>'
        for arm, *cells in rows(comparison)
    )
    return (
        f"<p>Every arm started from one model (pass@1 {percent(comparison['start'])}) and asked the "
        "same problems. Means over the seeds, with 95 % intervals of Student's t over seeds; curves are means over the "
        'seeds.</p><div class="scroll" tabindex="0"><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
        f"<p>{escape(best_over(comparison))}</p>"
        f'<div class="figures">{drawn}</div>'
    )


def mean_curve(run: Run, comparison: Stage, arm: str) -> Stage:
    """A stage named as the arm whose rows are the means over its seeds, for the steps that every begun seed has."""
    evaluations = [run.stage(n) for edge, ns in comparison.inputs.items() if edge.rpartition("/")[0] == arm for n in ns]
    names = [name for stage in evaluations if stage is not None for name in stage.inputs.get("model", ())]
    trained = [stage for name in names if (stage := run.stage(name)) is not None and stage.rows]
    return replace(comparison, name=arm, rows=_mean_rows([stage for stage in trained if stage.kind == "rl"]))


def _mean_rows(stages: Sequence[Stage]) -> tuple[Mapping[str, Any], ...]:
    found: dict[float, dict[str, float]] = {}
    for key in ("accuracy", "length"):
        curves = [dict(zip(*series(stage.rows, key), strict=True)) for stage in stages]
        for step in sorted(set.intersection(*map(set, curves))) if curves else ():
            found.setdefault(step, {"step": step})[key] = sum(curve[step] for curve in curves) / len(curves)
    return tuple(found.values())
