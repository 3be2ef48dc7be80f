"""The report page: one HTML file that needs nothing else, made from a run's files and its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from aha.data.lineage import LINEAGE, nodes_of
from aha.data.stats import compute_stats
from aha.report.comparisons import section
from aha.report.findings import ABSENT, APPEARED, limits
from aha.report.graph import gantt_svg, kind_class, recipe_svg
from aha.report.guards import guard_events
from aha.report.lineage import lineage_svg, stats_svgs
from aha.report.names import duration, is_proportion, model_label, number, percent, with_interval
from aha.report.plots import (
    WINDOW,
    accuracy_plot,
    bar_plot,
    first_curve,
    length_plot,
    overlay_plot,
    reliability_plot,
    reward_parts,
    reward_plot,
    task_keys,
    task_plot,
    vote_plot,
)
from aha.report.reading import STALE, Measure, Run, Stage, finite, parse_measure, series, vote_metric
from aha.report.samples import advantage_groups, side_by_side
from aha.report.style import STYLE
from aha.report.tables import NOT_RUN, cell, stage_columns, stage_rows
from aha.report.transcripts import tint, transcript_html

_NUM_PROBLEMS = 4  # shown side by side
_MOST_EVENTS = 50  # of the guards, of one stage; the rest is counted
_CURVE_NOTE = f"each step faint, mean of the last {WINDOW} steps bold"


def render_page(run: Run, summary: Mapping[str, Any]) -> str:
    """The whole page. Sections whose stages have not run say so; sections the recipe has no stages for are left out."""
    whole, run = run, run.without_arms()
    sections = [
        ("comparison", "Which way to train", section(whole, summary)),
        ("curve", "Accuracy and length over the steps", _curve(run, summary)),
        ("stages", "What each stage bought", _stages(run, summary)),
        ("findings", "What this run shows, and what it does not", _findings(run, summary)),
        ("distillation", "Distillation against direct RL", _distillation(run, summary)),
        ("votes", "Voting", _votes(run, summary)),
        ("rl", "The other RL stages", _other_rl(run, summary)),
        ("dynamics", "Rewards, entropy, KL and reflection", _dynamics(run)),
        ("tasks", "By task", _tasks(run, summary)),
        ("agreement", "Do sampler and trainer agree?", _agreement(run, summary)),
        ("preferences", "How good the preference models are", _preferences(run)),
        ("guards", "What the guards found", _guards(run)),
        ("samples", "The same problems, before and after", _samples(run)),
        ("advantages", "Which tokens were rewarded", _advantages(run)),
        ("lineage", "What everything was made from", _lineage(whole)),
        ("recipe", "The recipe and where the time went", _recipe(run, summary)),
        ("settings", "Settings", _settings(run)),
    ]
    shown = [(key, title, body) for key, title, body in sections if body]
    links = " ".join(f'<a href="#{key}">{escape(title)}</a>' for key, title, _ in shown)
    bodies = "".join(f'<section id="{key}"><h2>{escape(title)}</h2>{body}</section>' for key, title, body in shown)
    seed = run.arguments.get("seed")
    title = f"{run.recipe}, seed {seed}" if seed is not None else run.recipe
    done = sum(stage.done for stage in whole.stages)
    lead = (
        f"Recipe <b>{escape(run.recipe)}</b>{f' (version {escape(run.version)})' if run.version else ''}: {done} of "
        f"{len(whole.stages)} stages "
        f"finished, {escape(duration(summary['seconds']))} of work."
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Aha: {escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<header><h1>Aha: {escape(title)}</h1><p "
        f'class="lead">{lead}</p>{_tiles(run, summary)}<nav>{links}</nav></header>'
        f"<main>{bodies}</main>"
        "<footer><p>Made by <code>aha report</code> from the files of the run folder alone. Intervals are 95 "
        "%.</p></footer>"
        "</body></html>\n"
    )


def _tiles(run: Run, summary: Mapping[str, Any]) -> str:
    scored = _scored(summary)
    tiles: list[tuple[str, str]] = []
    for model in [name for name in ("base", "untrained", "r1_zero", "dev3", "r1") if name in scored] or list(scored)[
        :3
    ]:
        tiles.append((percent(scored[model].value), f"{model_label(model)}, pass@1"))
    stage = first_curve(run)
    if stage is not None:
        ratio = summary["curves"].get(stage.name, {}).get("length_ratio")
        if ratio is not None:
            tiles.append((f"×{ratio:.2f}", f"{model_label(stage.name)}'s length, end over lowest"))
    if not tiles:
        return ""
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{value}</b><span>{escape(name)}</span></div>' for value, name in tiles)
        + "</div>"
    )


def _curve(run: Run, summary: Mapping[str, Any]) -> str:
    if not run.of_kind("rl"):
        return ""
    stage = first_curve(run)
    if stage is None:
        return _pending("No RL stage has taken a step: not run yet.")
    levels = _levels(run, stage, summary)
    text = (
        f"<p>{escape(_label(stage))} on its training prompts: {len(stage.rows)} "
        f"steps{'' if stage.done or stage.stale else ' so far'}. "
        "The horizontal lines are its starting model on held-out problems.</p>"
    )
    figures = [
        _figure(accuracy_plot(stage, levels), f"{_label(stage)}: accuracy", _CURVE_NOTE),
        _figure(length_plot(stage), f"{_label(stage)}: response length", _CURVE_NOTE),
    ]
    return text + _grid(figures)


def _label(stage: Stage) -> str:
    return f"{model_label(stage.name)}{' (stale)' if stage.stale else ''}"


def _levels(run: Run, stage: Stage, summary: Mapping[str, Any]) -> list[tuple[str, Measure]]:
    start = run.start_of(stage)
    if start is None:
        return []
    entry = summary["stages"].get(start, {})
    found = [(metric, parse_measure(entry.get(metric))) for metric in ("pass@1", vote_metric(entry))]
    return [(f"{model_label(start)} {metric}", measure) for metric, measure in found if measure is not None]


def _stages(run: Run, summary: Mapping[str, Any]) -> str:
    rows = stage_rows(run, summary)
    if not rows:
        return ""
    columns = stage_columns(summary)
    best = {
        key: max(
            (m.value for row in rows if row.status != STALE and (m := row.measures[key]) is not None), default=None
        )
        for key in columns
        if is_proportion(key)
    }
    heads = "".join(f"<th>{escape(heading)}</th>" for heading in columns.values())
    body: list[str] = []
    for row in rows:
        cells: list[str] = []
        if row.status == NOT_RUN:
            cells.append(f'<td class="none" colspan="{len(columns)}">{NOT_RUN}</td>')
        else:
            for key in columns:
                measure = row.measures[key]
                if measure is None:
                    cells.append("<td>–</td>")
                    continue
                value, interval = cell(key, measure)
                strong = f"<b>{value}</b>" if row.status != STALE and best.get(key) == measure.value else value
                cells.append(f"<td>{strong}{f'<small>{interval}</small>' if interval else ''}</td>")
        mark = "<small>stale</small>" if row.status == STALE else ""
        body.append(
            f'<tr><th scope="row">{escape(row.label)}{mark}</th>{"".join(cells)}'
            f"<td>{escape(duration(row.seconds))}</td></tr>"
        )
    return (
        "<p>One row for each evaluated model, on held-out problems. All but length (tokens a response) and time are "
        "percent; "
        "small figures below a value are its 95 % interval; the highest of a column is bold. Time is that of the "
        "stage that "
        "made the model, without what came before it. Preference is the mean score of the learned preference "
        "models.</p>"
        f'<div class="scroll" tabindex="0"><table><thead><tr><th>model</th>{heads}<th>time</th></tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _findings(run: Run, summary: Mapping[str, Any]) -> str:
    items: list[str] = []
    for finding in summary["findings"]:
        shade = {APPEARED: "yes", ABSENT: "no"}.get(finding["outcome"], "open")
        items.append(
            f'<li><div class="outcome '
            f'{shade}">{escape(finding["outcome"])}</div><div><h3>{escape(finding["title"])}</h3>'
            f"<p>{escape(finding['sentence'])}</p>"
            f'<p class="paper">Paper: {escape(finding["paper"])} '
            f"<span>[{escape(finding['source'])}]</span></p></div></li>"
        )
    caution = "".join(f"<li>{escape(sentence)}</li>" for sentence in limits(run, summary))
    claims = (
        "<p>Each claim with its outcome in this run, the run's figures, and the paper's. The sentences are computed "
        "from the "
        f'figures.</p><ul class="findings">{"".join(items)}</ul>'
        if items
        else ""
    )
    return f'{claims}<h3>What it does not show</h3><ul class="limits">{caution}</ul>'


def _distillation(run: Run, summary: Mapping[str, Any]) -> str:
    planned = [model for model in run.evaluations() if model.startswith("student")]
    if not planned:
        return ""
    scored = _scored(summary)
    bars = {model: scored[model] for model in planned if model in scored}
    waiting = [model_label(model) for model in planned if model not in scored]
    if not bars:
        return _pending("No student has been evaluated: not run yet.")
    teacher = {"r1": scored["r1"]} if "r1" in scored else {}
    figure = _figure(
        bar_plot({**bars, **teacher}, "Students' pass@1"), "pass@1 on held-out problems", "bars to the 95 % interval"
    )
    note = f"<p>Not run yet: {escape(', '.join(waiting))}.</p>" if waiting else ""
    words = "; ".join(f"{model_label(model)} {with_interval(measure)}" for model, measure in bars.items())
    return f"<p>The same small base model, trained in two ways: {escape(words)}.</p>{note}{_grid([figure])}"


def _votes(run: Run, summary: Mapping[str, Any]) -> str:
    if not run.evaluations():
        return ""
    votes = {
        model: points
        for model, entry in summary["stages"].items()
        if isinstance(points := entry.get("votes"), list) and len(points) > 1
    }
    if not votes:
        return _pending("No votes have been counted: not run yet.")
    students = {model: points for model, points in votes.items() if model.startswith("student")}
    teachers = {model: points for model, points in votes.items() if model not in students}
    figures = [
        _figure(vote_plot(group, f"{title}: accuracy against votes"), title, "bands: 95 % interval")
        for title, group in (("Models", teachers), ("Students", students))
        if group
    ]
    return (
        "<p>Accuracy when the most frequent of k answers counts. Where one sample is often wrong in different ways, "
        "votes "
        f"find the answer; where a model is sure, they add little.</p>{_grid(figures)}"
    )


def _other_rl(run: Run, summary: Mapping[str, Any]) -> str:
    first = first_curve(run)
    others = [stage for stage in run.of_kind("rl") if first is None or stage.name != first.name]
    if not others:
        return ""
    parts: list[str] = []
    for stage in others:
        label = _label(stage)
        if not stage.rows:
            parts.append(_pending(f"{label}: not run yet."))
            continue
        levels = _levels(run, stage, summary)[:1]
        figures = [
            _figure(accuracy_plot(stage, levels), f"{label}: accuracy", _CURVE_NOTE),
            _figure(length_plot(stage), f"{label}: response length", _CURVE_NOTE),
        ]
        parts.append(_grid(figures))
    return "".join(parts)


def _dynamics(run: Run) -> str:
    stages = [stage for stage in run.of_kind("rl") if stage.rows]
    if not stages:
        return _pending("No RL stage has taken a step: not run yet.") if run.of_kind("rl") else ""
    measures = (
        ("entropy", "entropy, nats a token", "Entropy of the policy"),
        ("kl", "KL, nats a token", "KL to the reference model"),
        ("reflection", "words a response", "Reflection words"),
        ("format", "share", "Well-formed responses"),
        ("language", "share", "Language consistency"),
        ("truncated", "share", "Responses cut at the limit"),
    )
    figures = [
        _figure(
            overlay_plot(stages, key, f"{title}: {label}").replace(f">{title}: ", ">"), title, f"mean of {WINDOW} steps"
        )
        for key, label, title in measures
        if any(series(stage.rows, key)[1] for stage in stages)
    ]
    rewards = [
        _figure(reward_plot(stage), f"{model_label(stage.name)}: reward parts", f"unweighted, mean of {WINDOW} steps")
        for stage in stages
        if reward_parts(stage)
    ]
    text = (
        "<p>Reflection words are those the paper counts (wait, verify, check, …). Entropy near 0 means that the "
        "policy has "
        "become certain, rightly or not.</p>"
    )
    return text + _grid(figures) + (f"<h3>Reward parts</h3>{_grid(rewards)}" if rewards else "")


def _tasks(run: Run, summary: Mapping[str, Any]) -> str:
    figures: list[str] = []
    stage = first_curve(run)
    if stage is not None:
        label = model_label(stage.name)
        if task_keys(stage, "accuracy"):
            figures.append(
                _figure(
                    task_plot(stage, "accuracy", "accuracy, %", scale=100),
                    f"{label}: accuracy by task",
                    f"mean of {WINDOW} steps",
                )
            )
        if task_keys(stage, "length"):
            figures.append(
                _figure(task_plot(stage, "length", "tokens"), f"{label}: length by task", f"mean of {WINDOW} steps")
            )
    table = _task_table(summary)
    return (_grid(figures) if figures else "") + table


def _task_table(summary: Mapping[str, Any]) -> str:
    by_model = {
        model: tasks
        for model, entry in summary["stages"].items()
        if isinstance(tasks := entry.get("by_task"), Mapping) and tasks
    }
    names = list(dict.fromkeys(task for tasks in by_model.values() for task in tasks))
    if not names:
        return ""
    heads = "".join(f"<th>{escape(name.replace('_', ' '))}</th><th>length</th>" for name in names)
    rows: list[str] = []
    for model, tasks in by_model.items():
        cells: list[str] = []
        for name in names:
            entry = tasks.get(name) or {}
            for key in ("pass@1", "length"):
                measure = parse_measure(entry.get(key))
                value, interval = cell(key, measure) if measure is not None else ("–", "")
                cells.append(f"<td>{value}{f'<small>{interval}</small>' if interval else ''}</td>")
        rows.append(f'<tr><th scope="row">{escape(model_label(model))}</th>{"".join(cells)}</tr>')
    return (
        "<p>Pass@1 in percent and mean length in tokens on held-out problems of each task.</p>"
        f'<div class="scroll" '
        f'tabindex="0"><table><thead><tr><th>model</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _agreement(run: Run, summary: Mapping[str, Any]) -> str:
    if not run.of_kind("rl"):
        return ""
    rows: list[str] = []
    for stage in run.of_kind("rl"):
        curve = summary["curves"].get(stage.name)
        if curve is None:
            cells = f'<td class="none" colspan="5">{STALE if stage.stale else NOT_RUN}</td>'
        else:
            figures = [curve.get(key) for key in ("logprob_gap", "max_logprob_gap", "mismatch_kl", "ess_lowest")]
            cells = f"<td>{curve['steps']}</td>" + "".join(
                f"<td>{'–' if value is None else number(value)}</td>" for value in figures
            )
        rows.append(f'<tr><th scope="row">{escape(model_label(stage.name))}</th>{cells}</tr>')
    table = (
        '<div class="scroll" tabindex="0"><table><thead><tr><th>stage</th><th>steps</th>'
        "<th>mean gap of the worst step, nats</th>"
        "<th>largest gap</th>"
        "<th>largest mismatch KL</th><th>lowest effective sample size</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    stages = [
        stage for stage in run.of_kind("rl") if any(value > 0 for value in series(stage.rows, "max_logprob_gap")[1])
    ]
    figure = (
        _grid(
            [
                _figure(
                    overlay_plot(stages, "max_logprob_gap", "gap, nats", log=True),
                    "Largest gap of a step",
                    f"mean of {WINDOW} steps, log scale",
                )
            ]
        )
        if stages
        else ""
    )
    return (
        "<p>The sampler and the trainer compute the probability of each sampled token on their own. The largest "
        "difference of their logarithms, over every token of every step, says whether the run trained on what it "
        "sampled. The effective sample size (1 is all) is that of a step's last update, when the policy has already "
        f"moved.</p>{table}{figure}"
    )


def _preferences(run: Run) -> str:
    """A row and a reliability curve for each preference model that says how it did on texts it never saw."""
    rows, figures = [], []
    for stage in (*run.of_kind("reward_model"), *run.of_kind("reward_head")):
        held_out = stage.metrics.get("held_out")
        if not stage.done or not held_out:
            continue
        length, calibration = held_out["length"], held_out["calibration"]
        cells = [parse_measure(held_out["accuracy"]), parse_measure(length.get("longer_chosen"))]
        shown = ["–" if measure is None else with_interval(measure) for measure in cells]
        numbers = [finite(calibration["ece"]), finite(length["correlation"])]
        shown += ["–" if value is None else f"{value:.3f}" for value in numbers]
        rows.append(
            f'<tr><th scope="row">{escape(_label(stage))}</th>{"".join(f"<td>{cell}</td>" for cell in shown)}</tr>'
        )
        if calibration["bins"]:
            title = f"{_label(stage)}: reliability"
            figures.append(_figure(reliability_plot(calibration["bins"], title), title, "95 % intervals"))
    if not rows:
        return ""
    return (
        "<p>On prompts that were never trained on. Accuracy is the share of pairs, or of labelled texts, judged right; "
        "beside it what choosing the longer text would score. The calibration error is the mean distance of what is "
        "predicted from what comes true; the correlation is that of scores with lengths.</p>"
        '<div class="scroll" tabindex="0"><table><thead><tr><th>model</th><th>accuracy</th><th>longer is chosen</th>'
        "<th>calibration error</th><th>correlation with length</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>{_grid(figures)}"
    )


def _guards(run: Run) -> str:
    if not run.of_kind("rl"):
        return ""
    stages = [stage for stage in run.of_kind("rl") if stage.rows]
    if not stages:
        return _pending("No RL stage has taken a step: not run yet.")
    parts: list[str] = []
    quiet: list[str] = []
    for stage in stages:
        events = guard_events(stage.rows)
        if not events:
            quiet.append(f"{_label(stage)} ({len(stage.rows)} steps)")
            continue
        rows = "".join(
            f'<tr><th scope="row">{event.step}</th><td>{escape(event.what)}</td><td>{escape(event.action)}</td>'
            f'<td class="says">{escape(event.says)}</td></tr>'
            for event in events[:_MOST_EVENTS]
        )
        more = f"<p>{len(events) - _MOST_EVENTS} more are in its metrics.</p>" if len(events) > _MOST_EVENTS else ""
        parts.append(
            f'<h3>{escape(_label(stage))}</h3><div class="scroll" tabindex="0"><table><thead><tr><th>step</th>'
            f"<th>guard</th><th>action</th><th>finding</th></tr></thead><tbody>{rows}</tbody></table></div>{more}"
        )
    nothing = f"<p>Nothing was found in {escape(', '.join(quiet))}.</p>" if quiet else ""
    return (
        "<p>Guards look at the metrics of every step. A warning is written once while its cause lasts; skip leaves a "
        "batch out, rollback goes back to the last weights without a finding and halves the learning rate, stop ends "
        f"the stage.</p>{''.join(parts)}{nothing}"
    )


def _samples(run: Run) -> str:
    planned = list(run.evaluations())
    if not planned:
        return ""
    start = next((model for model in planned if model in {"base", "untrained"}), planned[0])
    chosen = [start, *(model for model in ("r1_zero", "r1") if model in planned)]
    if len(chosen) == 1:
        chosen += [stage.name for stage in run.of_kind("rl") if stage.name in planned][-2:] or planned[1:][-1:]
    transcripts = side_by_side(run, chosen, num_problems=_NUM_PROBLEMS)
    if not transcripts:
        return _pending("No evaluation has written samples: not run yet.")
    missing = [
        model_label(model)
        for model in chosen
        if all(title != model_label(model) for title, _ in transcripts[0].columns)
    ]
    note = f" No samples yet: {escape(', '.join(missing))}." if missing else ""
    return (
        "<p>The first held-out problems of each task and language, and the first answer each model sampled, right or "
        f"wrong: not chosen.{note}</p>" + "".join(map(transcript_html, transcripts))
    )


def _advantages(run: Run) -> str:
    if not run.of_kind("rl"):
        return ""
    parts: list[str] = []
    for stage in run.of_kind("rl"):
        groups = advantage_groups(stage)
        if groups:
            label, body = escape(model_label(stage.name)), "".join(map(transcript_html, groups))
            parts.append(f"<details{'' if parts else ' open'}><summary>{label}</summary>{body}</details>")
    if not parts:
        return _pending("No RL stage has written samples: not run yet.")
    legend = (
        f'<div class="scale"><span><i style="background:{tint(1.0)}"></i>made more likely</span>'
        f'<span><i style="background:{tint(-1.0)}"></i>made less likely</span><span>the stronger, the larger the '
        f"advantage</span></div>"
    )
    return (
        "<p>From the first and the last recorded steps of each RL stage: the first group whose rewards differ, its "
        "best and its "
        "worst completion among those kept. Each token is shaded by its advantage. Group-relative advantages are the "
        "same for every token of "
        f"a completion.</p>{legend}" + "".join(parts)
    )


def _recipe(run: Run, summary: Mapping[str, Any]) -> str:
    kinds = dict.fromkeys(stage.kind for stage in run.stages)
    legend = "".join(
        f'<span><i class="{kind_class(kind)}"></i>{escape(kind.replace("_", " "))}</span>' for kind in kinds
    )
    strip = gantt_svg(run)
    parts = [
        "<p>Arrows point from a result to the stages that use it; below a model is its evaluation. Dashed stages have "
        "not "
        f"finished. All stages together took {escape(duration(summary['seconds']))}.</p>",
        f'<div class="kinds">{legend}</div><figure class="drawing" tabindex="0">{recipe_svg(run)}</figure>',
    ]
    if strip:
        parts.append(f'<h3>When each stage ran</h3><figure class="drawing" tabindex="0">{strip}</figure>')
    return "".join(parts)


def _lineage(run: Run) -> str:
    """The graph of all finished stages and what came from outside, and the rows of each set that was learned from."""
    if not any((stage.folder / LINEAGE).is_file() for stage in run.stages):
        return ""
    drawing = lineage_svg(nodes_of(run.folder))
    parts = [
        "<p>From what came from outside, at the top, to the models. Each model folder says the same of itself in its "
        "card, with the hashes of all files. Grey: files; green: data; orange: supervised; blue: RL.</p>"
        f'<figure class="drawing" tabindex="0">{drawing}</figure>'
    ]
    for stage in run.stages:
        rows = stage.folder / "examples.jsonl"
        if stage.done and rows.is_file():
            figures = [_figure(svg, title, "") for title, svg in stats_svgs(compute_stats([rows]))]
            parts.append(f"<h3>Rows of {escape(stage.name)}</h3>{_grid(figures)}")
    return "".join(parts)


def _settings(run: Run) -> str:
    parts: list[str] = []
    if run.arguments:
        parts.append(_details("recipe arguments", "", run.arguments))
    for stage in run.stages:
        note = stage.kind.replace("_", " ")
        if stage.inputs:
            note += ", uses " + ", ".join(dict.fromkeys(name for names in stage.inputs.values() for name in names))
        parts.append(_details(stage.name, note, stage.settings))
    return "".join(parts)


def _details(name: str, note: str, settings: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(key)}</th><td>{escape(str(value))}</td></tr>'
        for key, value in _flat(settings, "")
    )
    table = f"<table><tbody>{rows}</tbody></table>" if rows else "<p>No settings.</p>"
    return f"<details><summary>{escape(name)}<small>{escape(note)}</small></summary>{table}</details>"


def _flat(settings: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            pairs += _flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


def _scored(summary: Mapping[str, Any]) -> dict[str, Measure]:
    """Model -> pass@1, of those that have one."""
    found = {model: parse_measure(entry.get("pass@1")) for model, entry in summary["stages"].items()}
    return {model: measure for model, measure in found.items() if measure is not None}


def _figure(svg: str, caption: str, note: str) -> str:
    return f"<figure><figcaption>{escape(caption)}<small>{escape(note)}</small></figcaption>{svg}</figure>"


def _grid(figures: Sequence[str]) -> str:
    return f'<div class="figures">{"".join(figures)}</div>'


def _pending(text: str) -> str:
    return f'<p class="pending-note">{escape(text)}</p>'
