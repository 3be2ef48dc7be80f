"""Regenerates the generated blocks and pictures of the documentation.

    python docs/build.py                          # every block again, from docs/results and from the code
    python docs/build.py runs/r1_tiny runs/seed1  # first take over the figures of these finished runs

A block stands between ``<!-- generated:NAME -->`` and ``<!-- /generated -->``; what it says comes from
``docs/results/*.json`` (the runs' ``summary.json``) or from the code, never from a keyboard. Run folders are only read.
Doing it twice changes nothing.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer.main

import aha
from aha.cli import _show_summary, app
from aha.config import canonical
from aha.errors import AhaError, UsageError
from aha.model.count import count_parameters
from aha.objective.algorithms import ALGORITHMS
from aha.objective.describe import describe as describe_algorithm
from aha.pipeline.fingerprint import settings_changed
from aha.pipeline.graph import Pipeline, describe
from aha.pipeline.recipe import load_pipeline
from aha.report.comparisons import curves_of, gains, markdown
from aha.report.names import percent
from aha.report.plots import save_comparison_figure, save_readme_figure, save_reliability_figure
from aha.report.reading import Run, load_run
from aha.report.scaling import scaling_sentences
from aha.report.summary import compute_summary
from aha.report.tables import markdown_stage_table, seeds_table
from aha.stages.context import Context
from aha.stages.pretrain import model_config
from aha.stages.sft_presets import PRESETS
from aha.util.benchmarks import load_benchmark
from aha.util.files import read_json, write_json_atomic, write_text_atomic

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- generated:([\w-]+) -->\n)(.*?)(<!-- /generated -->)", re.DOTALL)
MANY = 3  # stages with equal settings that a table heading still names one by one

LONGER = ("accuracy_longer_chosen", "accuracy_shorter_chosen")
PREDICTED = {
    "helpful": "the better of two answers",
    "helpful_even": "the same, lengths balanced",
    "safe": "an answer is the good one",
}

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""The summaries of each recipe, by seed."""


def main(arguments: Sequence[str]) -> int:
    try:
        for run in arguments:
            print(f"took {take(Path(run), ROOT)}")
        for path, text in render(ROOT).items():
            if path.read_text(encoding="utf-8") != text:
                write_text_atomic(path, text)
                print(f"wrote {path.relative_to(ROOT)}")
    except AhaError as error:
        print(f"docs/build.py: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def take(run: Path, root: Path) -> Path:
    """Copies a run's figures to ``docs/results`` and draws its picture if its seed is the recipe's lowest there.

    ``UsageError`` for a run that is not finished, or was made with other settings than the recipe has.
    """
    summary = compute_summary(load_run(run))
    if summary["missing"]:
        raise UsageError(f"{run} is not finished: {', '.join(summary['missing'])}; run it to its end first")
    _check_settings(run)
    path = root / "docs" / "results" / f"{summary['recipe']}-seed{summary['seed']}.json"
    write_json_atomic(path, summary)
    if load_results(root)[summary["recipe"]][0]["seed"] == summary["seed"]:
        _draw(load_run(run), summary, root / "docs" / "figures" / f"{summary['recipe']}.png")
    return path


def _draw(run: Run, summary: Mapping[str, Any], path: Path) -> None:
    for stage in run.of_kind("compare"):
        save_comparison_figure(gains(summary["comparisons"][stage.name]), curves_of(run, stage), path)
        return
    if curves := {
        f"{name}: {PREDICTED[name]}": found["held_out"]["calibration"]["bins"]
        for name, found in summary["preferences"].items()
        if found["kind"] == "reward_head"
    }:
        save_reliability_figure(curves, path)
        return
    if summary["stages"]:
        save_readme_figure(run.folder, path)


def _check_settings(run: Path) -> None:
    """The figures must be those of the recipe as it stands, or the page would describe what nobody ran."""
    made = read_json(run / "recipe.json")
    assignments = [f"{name}={value}" for name, value in made["arguments"].items() if value != ""]
    now = canonical(describe(load_pipeline(made["recipe"], assignments)[0]))
    before, after = ({stage["name"]: _settings_of(stage) for stage in own["stages"]} for own in (made, now))
    if before.keys() != after.keys():
        names = ", ".join(sorted(before.keys() ^ after.keys()))
        raise UsageError(f"{run} has other stages than the recipe now: {names}")
    changed = [f"{name}.{what}" for name in after for what in settings_changed(before[name], after[name])]
    if changed:
        raise UsageError(f"{run} was made with other settings than the recipe has: {'; '.join(changed)}")


def _settings_of(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Without the place where a model from outside lay."""
    dropped = {"folder"} if stage["kind"] == "foundation" else set()
    return {name: value for name, value in stage["settings"].items() if name not in dropped}


def load_results(root: Path) -> dict[str, list[dict[str, Any]]]:
    """``docs/results/*.json`` by recipe, each in the order of the seeds."""
    results: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((root / "docs" / "results").glob("*.json")):
        summary = read_json(path)
        results.setdefault(summary["recipe"], []).append(summary)
    return {recipe: sorted(found, key=lambda summary: int(summary["seed"])) for recipe, found in results.items()}


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


def _first(results: Results, recipe: str) -> Mapping[str, Any] | None:
    return results[recipe][0] if results.get(recipe) else None


def demo(results: Results, root: Path) -> str:
    """The table that ``aha run r1_tiny`` ends with, as a terminal shows it."""
    summary = _first(results, "r1_tiny")
    if summary is None:
        return ""
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        _show_summary(dict(summary))
    lines = [line.rstrip() for line in printed.getvalue().splitlines()]
    return "```text\n" + "\n".join(line for line in lines if line) + "\nreport: runs/r1_tiny/report.html\n```"


def figure(results: Results, root: Path) -> str:
    """The picture, written for a page at the root of the repository."""
    path = root / "docs" / "figures" / "r1_tiny.png"
    summary = _first(results, "r1_tiny")
    if summary is None or not path.is_file():
        return ""
    words = "R1-Zero's accuracy and response length over its steps, and pass@1 of every stage with 95 % intervals"
    return f"![{words}](docs/figures/r1_tiny.png)\n\n{words} (seed {summary['seed']})."


def stages_of(recipe: str) -> Callable[[Results, Path], str]:
    """The stage table of the run with the lowest seed."""

    def block(results: Results, root: Path) -> str:
        summary = _first(results, recipe)
        return "" if summary is None else f"Seed {summary['seed']}.\n\n" + markdown_stage_table(summary)

    return block


def seeds_of(recipe: str) -> Callable[[Results, Path], str]:
    """The claims over all seeds."""
    return lambda results, root: seeds_table(results[recipe]) if results.get(recipe) else ""


def findings_of(recipe: str, keys: str = "") -> Callable[[Results, Path], str]:
    """The report's sentences for the run with the lowest seed, beside what the paper says; of findings whose key begins
    with ``keys``."""

    def block(results: Results, root: Path) -> str:
        summary = _first(results, recipe)
        if summary is None:
            return ""
        return "\n".join(
            f"- **{finding['title']}**: {finding['outcome']}. {finding['sentence']} "
            f"Paper: {finding['paper']} ({finding['source']})"
            for finding in summary["findings"]
            if finding["key"].startswith(keys)
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
        return _table(("stage", "code", "reads"), rows)

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
        return _table(("setting", *headings), [(f"`{key}`", *values) for key, values in rows.items()])
    shared = [(f"`{key}`", values[0]) for key, values in rows.items() if len(set(values)) == 1]
    differing = {key: values for key, values in rows.items() if len(set(values)) > 1}
    turned = [(heading, *(values[i] for values in differing.values())) for i, heading in enumerate(headings)]
    return _table(("stages", *(f"`{key}`" for key in differing)), turned) + "\n\n" + _table(("setting", "all"), shared)


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


def arms_of(recipe: str) -> Callable[[Results, Path], str]:
    """The table of a recipe's comparison."""

    def block(results: Results, root: Path) -> str:
        summary = _first(results, recipe)
        if summary is None:
            return ""
        return "\n\n".join(
            f"The base: pass@1 {percent(comparison['start'])}.\n\n{markdown(comparison)}"
            for comparison in summary["comparisons"].values()
        )

    return block


def harness(results: Results, root: Path) -> str:
    """What ``benchmarks/harness.py compare`` found."""
    if (found := _measured(root, "harness")) is None:
        return ""
    rows = []
    for name, one in found.items():
        boxed, anywhere = one["filters"]["boxed"], one["filters"]["flexible-extract"]
        own = one.get("evaluate")
        rows.append(
            (
                name.removeprefix("aha_"),
                str(one["problems"]),
                _interval(boxed["accuracy"]),
                _interval(anywhere["accuracy"]),
                _interval(one["aha"]),
                f"{boxed['agree']}; ours alone {boxed['ours_alone']}, theirs alone {boxed['theirs_alone']}",
                f"{_interval(own['pass@1'])}; {own['same_text']} of {own['problems']} texts equal" if own else "–",
            )
        )
    heads = (
        "set", "problems", "lm-eval, box", "lm-eval, last number", "aha, the same texts", "equal verdicts, of the box",
        "`aha evaluate`",
    )  # fmt: skip
    return _table(heads, rows)


def preferences(results: Results, root: Path) -> str:
    """What the heads and DPO of preferences_real were worth on texts that they did not learn from."""
    summary = _first(results, "preferences_real")
    if summary is None:
        return ""
    found = summary["preferences"]
    data, read, dpo = found["pairs"], found["read"], found["dpo"]
    rows = []
    for name, kind in (("helpful", "pairs"), ("helpful_even", "pairs"), ("safe", "texts")):
        head = found[name]
        both = (head["held_out"], f"every one of {_count(head['held_out'])} {kind}, held out once")
        own = (head["test"], f"the test side, {_count(head['test'])} {kind}")
        for report, where in (both, own):
            length, curve = report["length"], report["calibration"]
            rows.append(
                (
                    f"`{name}`, layer {head['depth']}",
                    where,
                    _interval(report["accuracy"]),
                    f"{100 * curve['ece']:.1f} points",
                    f"{length['correlation']:+.2f}",
                    *(_interval(length[key]) if key in length else "–" for key in LONGER),
                )
            )
    heads = (
        "model", "judged on", "accuracy", "calibration error", "correlation of score and length",
        "where the better text is longer", "where it is shorter",
    )  # fmt: skip
    length = found["helpful"]["held_out"]["length"]
    before, after = (dpo["held_out"][key] for key in ("margin_before", "margin"))
    sentences = (
        f"{data['train']:,} pairs to train on and {data['test']} to test; {read['texts']:,} texts with "
        f"{read['tokens']:,} tokens are read once.",
        f"Choosing the longer text would be right in {_interval(length['longer_chosen'])} of all pairs; `helpful_even` "
        f"learns from {found['pairs_even']['train']:,} whose longer text is as often the better as the worse one.",
        *_by_pairs(found["safe"]["held_out"]),
        f"DPO on {dpo['pairs']} pairs, {dpo['steps']} updates: over {found['pairs_dpo']['test']} pairs of the test "
        f"side the mean margin goes from {before['value']:.4f} to {after['value']:.4f} ({after['low']:.4f} to "
        f"{after['high']:.4f}, pair by pair); {_interval(dpo['held_out']['accuracy'])} of them move towards the "
        "preferred answer.",
    )
    words = "How often each model is right against how sure it is, with 95 % intervals"
    picture = f"![{words}](figures/preferences_real.png)\n\n{words} (seed {summary['seed']})."
    return "\n\n".join((_table(heads, rows), *sentences, picture))


def _by_pairs(report: Mapping[str, Any]) -> Iterator[str]:
    if "pairs" in report:
        yield (
            f"`safe` judges single texts; of the two of a pair it gives the better one the higher score in "
            f"{_interval(report['pairs'])}."
        )


def _count(report: Mapping[str, Any]) -> str:
    return f"{sum(b['count'] for b in report['calibration']['bins']):,}"


def _interval(measure: Mapping[str, float]) -> str:
    return f"{percent(measure['value'])} ({percent(measure['low'])} to {percent(measure['high'])})"


def presets(results: Results, root: Path) -> str:
    """The rows of stages/sft_presets.py."""
    heads = ("preset", "epochs", "rate", "last", "batch", "context", "RoPE theta", "warm-up", "clip", "decay", "source")
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for name, row in PRESETS.items():
        share = None if row.warmup_share is None else f"{row.warmup_share:.0%}"
        theta = None if row.rope_theta is None else f"{row.rope_theta:,.0f}"
        cells = (
            f"`{name}`", row.epochs, f"{row.lr:g}", f"{row.final_ratio:g}", row.batch, f"{row.context:,}", theta, share,
            row.max_grad_norm, row.weight_decay, row.source,
        )  # fmt: skip
        lines.append(f"| {' | '.join('' if cell is None else str(cell) for cell in cells)} |")
    return "\n".join(lines)


def sizes(results: Results, root: Path) -> str:
    """Parameters of the toy's models and the tokens they are pre-trained on."""
    pipeline = load_pipeline("r1_tiny", [])[0]
    words = next(stage for stage in pipeline.stages if stage.kind == "tokenizer")
    with tempfile.TemporaryDirectory() as folder:
        context = Context(Path(folder), name=words.name, seed=pipeline.seed_of(words), run_seed=0)
        vocabulary = words.run(words.settings, {}, context).metrics["vocab_size"]
    rows = []
    for stage in (stage for stage in pipeline.stages if stage.kind == "pretrain"):
        settings = stage.settings.model_dump()
        config = model_config(stage.settings.shape, vocabulary=vocabulary, eos_token_id=None)
        tokens = settings["steps"] * settings["rows"] * settings["row_length"]
        rows.append((f"`{stage.name}`", f"{count_parameters(config):,}", str(vocabulary), f"{tokens:,}"))
    return _table(("model", "parameters", "words in the vocabulary", "tokens of pre-training"), rows)


def algorithms(results: Results, root: Path) -> str:
    """The table of algorithms as the program holds it."""
    rows = [(f"`{row.name}`", *describe_algorithm(row).values()) for row in ALGORITHMS.values()]
    notes = "\n".join(f"- `{row.name}`: {row.citation}" for row in ALGORITHMS.values())
    return _table(("algorithm", *describe_algorithm(ALGORITHMS["grpo"])), rows) + "\n\n" + notes


def pipeline(results: Results, root: Path) -> str:
    """Pipeline schedules side by side, as ``aha bench pipeline`` simulates them."""
    rows = load_benchmark("pipeline")(picture=None)["rows"]
    spread = [[f"{x:g}" for x in (min(row["bubbles"]), max(row["bubbles"]))] for row in rows]
    cells = [
        (
            row["name"],
            str(row["ranks"]),
            str(row["micro_batches"]),
            f"{row['makespan']:g}",
            low if low == high else f"{low} to {high}",
            f"{row['formula']:g}",
            str(max(row["peak_activations"])),
            str(row["stages_per_rank"]),
        )
        for row, (low, high) in zip(rows, spread, strict=True)
    ]
    headings = (
        "schedule", "ranks", "micro-batches", "time", "a rank idles", "V3's table 2", "held at most", "stages a rank"
    )  # fmt: skip
    return _table(headings, cells)


def cache(results: Results, root: Path) -> str:
    """The cache of published models, as ``aha bench cache`` counts it."""
    found = load_benchmark("cache")(picture=None)
    context = found["setting"]["context"]
    headings = ("model", "numbers a token and layer", "bytes a token", f"GiB for {context:,} tokens")
    cells = [
        (row["name"], f"{row['values_per_token_and_layer']:,}", f"{row['bytes_per_token']:,}", f"{row['GiB']:g}")
        for row in found["rows"]
    ]
    return _table(headings, cells)


def _measured(root: Path, name: str) -> Any:
    """What a benchmark wrote down, where it did."""
    path = root / "docs" / "measured" / f"{name}.json"
    return read_json(path) if path.is_file() else None


def expert_load(results: Results, root: Path) -> str:
    """What ``benchmarks/expert_load.py`` found."""
    if (found := _measured(root, "expert_load")) is None:
        return ""
    words = "MaxVio over the steps of every arm, and the load of each expert without and with balancing"
    window = found["window"]
    headings = ("arm", "α", "γ", "loss", "MaxVio of one update", f"of {window} updates", "below 0.1 to the end after")
    rows = [
        (
            f"`{name}`",
            f"{arm['alpha']:g}",
            f"{arm['gamma']:g}",
            f"{arm['loss']:.4f}",
            f"{arm['max_vio_step']:.3f}",
            f"{arm['max_vio_window']:.3f}",
            "–" if arm["even_after"] is None else f"{arm['even_after']} updates",
        )
        for name, arm in found["arms"].items()
    ]
    after = f"After {found['steps']:,} updates, seed {found['seed']}; loss, MaxVio of one: means of the last {window}."
    return f"![{words}](figures/expert_load.png)\n\n{_table(headings, rows)}\n\n{after}"


def mtp(results: Results, root: Path) -> str:
    """What ``aha bench mtp`` found: how much of the drafts is kept."""
    if (found := _measured(root, "mtp")) is None:
        return ""
    rows = []
    for text, both in found["acceptance"].items():
        drafts = found["drafts"][f"toy, 64 rows, {text}"]
        rows.append(
            (
                text,
                f"{100 * both['agreement']:.1f} % of {both['places']:,} places",
                f"{100 * both['overlap']:.1f} %",
                f"{100 * drafts['acceptance']:.1f} %",
                f"{drafts['tokens_per_step']:.2f}",
            )
        )
    headings = ("text", "same most likely token", "shared probability, Σ min(*p*, *q*)", "drafts kept", "tokens a step")
    return _table(headings, rows)


def mtp_time(results: Results, root: Path) -> str:
    """What ``aha bench mtp`` found: the time that drafts save."""
    if (found := _measured(root, "mtp")) is None:
        return ""
    rows = []
    for where, drafts in found["drafts"].items():
        ratio = found["ratios"][f"{where}: tokens/s with drafts / without"]
        cells = (f"{drafts['tokens_per_step']:.2f}", f"{drafts['allowed_ratio']:.2f}", f"{ratio['wall']:.2f}")
        rows.append((where, *cells, f"{ratio['cpu']:.2f}"))
    setting, large = found["setting"], found["setting"]["large"]
    words = (
        f"One thread of an {setting['processor']}, {setting['dtype']}, medians of {setting['repeat']} runs in turn; "
        f"the large body has {large['layers']} layers of width {large['width']}."
    )
    headings = ("model, rows, text", "tokens a step", "ratio the draft allows", "ratio, time", "ratio, processor time")
    return _table(headings, rows) + "\n\n" + words


def train_speed(results: Results, root: Path) -> str:
    """What ``aha bench train`` found, one run after the other: steps beside TRL's and what the machine allows."""
    if (runs := _measured(root, "train")) is None:
        return ""
    parts = []
    for dtype in dict.fromkeys(run["setting"]["dtype"] for run in runs):
        lines = []
        for run in (run for run in runs if run["setting"]["dtype"] == dtype):
            found = {row["name"]: row for row in run["rows"]}
            for name, ratio in run["ratios"].items():
                case = name.removesuffix(": aha / TRL")
                ours, theirs = (found[f"{case}: {side}"] for side in ("aha", "TRL"))
                floor = run["floors"][f"{case}: aha"]
                times = [run["floors"][f"{case}: {side}"] for side in ("aha", "TRL")]
                seconds, others = (f"{of['seconds'] / of['share']:.2f}" for of in times)
                of_it = [name for name in found if name.startswith(f"{case}: aha, of it ")]
                spent = "; ".join(f"{name.rpartition(' ')[2]} {found[name]['median']:.2f}" for name in of_it)
                peak = ours["peak_rss_mib"]
                memory = f"{peak:,.0f} MiB, {peak / theirs['peak_rss_mib']:.2f}"
                shown = (seconds + (f" ({spent})" if spent else ""), others, f"{ratio['cpu']:.2f}")
                lines.append(
                    (case, *shown, f"{floor['seconds']:.2f}", f"{100 * floor['share']:.0f} %", memory)
                )
        headings = (
            dtype, "processor seconds a step", "TRL's", "TRL's by ours", "floor", "share of it", "peak, and by TRL's",
        )  # fmt: skip
        parts.append(_table(headings, lines))
    setting, versions = runs[0]["setting"], runs[0]["versions"]
    rates = ", ".join(
        f"{max(run['setting']['gemm_gflops'] for run in runs if run['setting']['dtype'] == dtype):.0f} in {dtype}"
        for dtype in dict.fromkeys(run["setting"]["dtype"] for run in runs)
    )
    repeats = sorted({run["setting"]["repeat"] for run in runs})
    peers = ", ".join(f"{name} {versions[package]}" for name, package in (("TRL", "trl"), ("torch", "torch")))
    steps = "One step each" if repeats == [1] else f"Medians of {repeats[0]} to {repeats[-1]} steps"
    parts.append(
        f"{steps}, while the machine did other things, too. One thread of an "
        f"{setting['processor']}; {peers}. Matrix products alone, GFLOP a second: {rates}."
    )
    return "\n\n".join(parts)


def fp8(results: Results, root: Path) -> str:
    """What ``benchmarks/fp8.py`` found."""
    if (found := _measured(root, "fp8")) is None:
        return ""
    outlier = next(row for row in found["outliers"] if row["factor"] == 1e5)
    total = next(row for row in found["sums"] if row["K"] == 4096)
    rows = [
        ("rounding beside a channel of 1e5: one scale for the tensor", _percent(outlier["tensor"])),
        ("the same: a scale for each 1 x 128 tile", _percent(outlier["tiles"])),
        ("a product over 4,096: rounding of its operands to FP8", _percent(total["fp8"])),
        ("the same: sums in 14 bits", _percent(total["unpromoted"])),
        ("the same: sums in 14 bits, promoted every 128", _percent(total["promoted"])),
    ]
    words = "Errors of one scale and of tiles beside an outlier, and of a product by source"
    words += ", and loss against BF16" if found["training"] else ""
    seconds = ", ".join(f"{value:.2f} ({arm})" for arm, value in found["processor_seconds_per_step"].items())
    parts = [
        f"![{words}](figures/fp8.png)",
        _table(("relative error (Frobenius)", ""), rows),
        f"A step of the tiny base takes {seconds} seconds of one core ({found['processor']}).",
    ]
    if found["training"]:
        steps = f"{found['training'][0]['steps']:,}"
        heads = ("learning rate", "", f"loss after {steps}", "against BF16", "mean of all steps", "largest")
        parts.append(_table(heads, [row for training in found["training"] for row in _fp8_training(training)]))
        parts.append("Losses are smoothed with 0.9. DeepSeek-V3 reports differences below 0.25 % (appendix B.1).")
    return "\n\n".join(parts)


def _fp8_training(training: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for arm, loss in training["loss"].items():
        gaps = training["against_bf16"].get(arm)
        shown = [_percent(gaps[key], sign="+") for key in ("last", "mean", "largest")] if gaps else ["–"] * 3
        yield f"{training['lr']:g}", arm, f"{loss:.4f}", *shown


def _percent(share: float, *, sign: str = "") -> str:
    return f"{100 * share:{sign}.3g} %"


def rollout_speed(results: Results, root: Path) -> str:
    """What ``aha bench rollout`` found, of every recorded setting."""
    sides = ("aha", "aha without kernels", "transformers.generate", "vLLM", "llama.cpp")
    rows, processors = [], set()
    for path in sorted((root / "docs" / "measured").glob("rollout_*.json")):
        found = read_json(path)
        setting = found["setting"]
        of = {row["name"]: row for row in found["rows"] if row["unit"] == "tokens/s of processor time"}
        peers = {name: of[name]["median"] for name in sides[2:] if name in of}
        best = max(peers, key=lambda name: peers[name])
        ratios = [ours / theirs for ours, theirs in zip(of["aha"]["values"], of[best]["values"], strict=True)]
        limit = next(row["median"] for row in found["rows"] if row["name"] == "limit of the machine")
        lengths = "even" if isinstance(setting["new_tokens"], int) else "uneven"
        rows.append(
            (
                f"{setting['shape']}, {setting['dtype']}, {lengths}",
                *(f"{of[name]['median']:,.0f}" if name in of else "–" for name in sides),
                f"{of['aha']['median'] / peers[best]:.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
                f"{limit:,.0f}",
                f"{of['aha']['median'] / limit:.0%}",
                " / ".join(f"{of[name]['peak_rss_mib']:,.0f}" for name in sides if name in of),
            )
        )
        processors.add(f"{setting['processor']}, {setting['threads']} thread, runs in turn: {setting['repeat']}")
    if not rows:
        return ""
    heads = ("model, numbers, lengths", *sides, "aha / best peer", "limit", "our share", "peak MiB, in this order")
    return _table(heads, rows) + f"\n\nTokens a second of processor time, medians; {'; '.join(sorted(processors))}."


def where(results: Results, root: Path) -> str:
    """What ``benchmarks/where.py`` found."""
    if (found := _measured(root, "where")) is None:
        return ""
    rows = []
    for row in found["rows"]:
        for way, words in (("PyTorch", "PyTorch alone"), ("kernels", "compiled kernels")):
            of = row[way]
            parts = ", ".join(f"{part} {share:.0%}" for part, share in of["parts"].items() if share >= 0.005)
            rows.append((f"{row['dtype']}, {row['lengths']}", words, f"{of['tokens/s']:,.0f}", parts))
    return _table(("numbers, lengths", "computed by", "tokens/s", "where the time goes"), rows)


def where_update(results: Results, root: Path) -> str:
    """What ``benchmarks/where.py`` found of an update."""
    if (found := _measured(root, "where")) is None or "updates" not in found:
        return ""
    ways = found["updates"]
    heads = [f"{one['dtype']}, {'kernels' if one['way'] == 'kernels' else 'PyTorch alone'}" for one in ways]
    rows = [("processor seconds", *(f"{one['seconds']:.2f}" for one in ways))]
    rows += [(part, *(f"{one['parts'][part]:.1%}" for one in ways)) for part in ways[0]["parts"]]
    return _table(("", *heads), rows)


def cost(results: Results, root: Path) -> str:
    """What ``benchmarks/cost.py`` found."""
    if (found := _measured(root, "cost")) is None:
        return ""
    quantities = ("rollout s", "update s", "rollout MiB", "update MiB")
    rows = []
    for axis, row in found["axes"].items():
        xs = [point["x"] for point in row["points"]]
        powers = [f"{row['powers'][name]['power']:.2f} ({row['powers'][name]['last']:.2f})" for name in quantities]
        rows.append((axis, f"{xs[0]:,} to {xs[-1]:,}", *powers))
    words = "Processor seconds of rollout and update against each thing that grows, beside a line of power 1"
    return f"![{words}](figures/cost.png)\n\n{_table(('twice as many', 'from, to', *quantities), rows)}"


def coverage(results: Results, root: Path) -> str:
    """What ``benchmarks/coverage.py`` found: a row a setting, a column an estimator."""
    if (found := _measured(root, "coverage")) is None:
        return ""
    settings: dict[str, list[dict[str, Any]]] = {}
    for row in found["rows"]:
        settings.setdefault(row["like"], []).append(row)
    rows = [
        (like, *(str(own[0][key]) for key in ("problems", "samples")), f"{100 * own[0]['truth']:.0f} %")
        + tuple(f"{100 * row['covered']:.1f}" for row in own)
        for like, own in settings.items()
    ]
    columns = [row["of"] for row in next(iter(settings.values()))]
    headings = ("problems like", "problems", "samples", "true pass@1", *columns)
    shares = [row["covered"] for row in found["rows"]]
    within = sum(0.93 <= share <= 0.97 for share in shares)
    outside = ", ".join(
        f"{row['of']} of {row['like']} (true value {100 * row['truth']:.1f} %)"
        for row in found["rows"]
        if not 0.93 <= row["covered"] <= 0.97
    )
    words = f"{within} of {len(shares)} are from 93 to 97 %" + (f"; outside: {outside}." if outside else ".")
    return f"{_table(headings, rows)}\n\n{words}"


def search_of(name: str) -> Callable[[Results, Path], str]:
    """What ``aha bench search`` found, kept as ``search_NAME.json``: picture, table, and what that says."""

    def block(results: Results, root: Path) -> str:
        if (found := _measured(root, f"search_{name}")) is None:
            return ""
        words = "Accuracy against generated tokens of every strategy, with 95 % intervals, and pass@k above"
        budgets = sorted({row["budget"] for row in found["rows"]})
        shares: dict[str, dict[int, str]] = {}
        for row in found["rows"]:
            own = row["accuracy"]
            cell = f"{100 * own['value']:.1f} ({100 * own['low']:.1f}–{100 * own['high']:.1f})"
            shares.setdefault(row["strategy"], {})[row["budget"]] = cell
        shares["pass@k"] = {row["k"]: f"{100 * row['value']:.1f}" for row in found["oracle"]}
        rows = [(strategy, *(own.get(n, "") for n in budgets)) for strategy, own in shares.items()]
        table = _table(("strategy, %", *(f"N = {n}" for n in budgets)), rows)
        said = "\n".join(f"- {sentence[0].upper()}{sentence[1:]}." for sentence in scaling_sentences(found))
        setting = found["setting"]
        under = f"{found['problems']} problems of `{found['bench']}`, temperature {setting['temperature']:g}."
        return f"![{words}](figures/search_{name}.png)\n\n{under}\n\n{table}\n\n{said}"

    return block


def commands(results: Results, root: Path) -> str:
    """Every command with the first sentence of its help."""
    group: Any = typer.main.get_command(app)
    rows = [(f"`aha {name}`", (command.help or "").split("\n\n")[0]) for name, command in group.commands.items()]
    return _table(("command", "does"), rows)


def house(results: Results, root: Path) -> str:
    """Every folder of the package in the words of its own first line, in the order of the imports."""
    package = Path(aha.__file__).parent
    lines = []
    for name in reversed(_layers(root)):
        path = package / name / "__init__.py" if (package / name).is_dir() else package / f"{name}.py"
        if path.is_file():
            where = f"src/aha/{name}{'/' if path.name == '__init__.py' else '.py'}"
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            lines.append((f"[`{where}`]({where})", docstring.split("\n\n")[0].replace("\n", " ")))
    return _table(("where", "what"), lines)


def _layers(root: Path) -> list[str]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    layers = re.search(r"^layers = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert layers is not None
    return [name.strip("()") for name in re.findall(r'"([^"]+)"', layers.group(1))]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


BLOCKS: dict[str, Callable[[Results, Path], str]] = {
    "demo": demo,
    "figure": figure,
    "commands": commands,
    "house": house,
    "algorithms": algorithms,
    "pipeline": pipeline,
    "cache": cache,
    "expert-load": expert_load,
    "mtp": mtp,
    "mtp-time": mtp_time,
    "fp8": fp8,
    "rollout-speed": rollout_speed,
    "where": where,
    "where-update": where_update,
    "cost": cost,
    "coverage": coverage,
    "search-student": search_of("student"),
    "search-r1": search_of("r1"),
    "search-countdown": search_of("countdown"),
    "search_tiny-scorer": findings_of("search_tiny"),
    "unsuccessful_tiny-scorer": findings_of("unsuccessful_tiny", "step_labels"),
    "unsuccessful_tiny-arms": arms_of("unsuccessful_tiny"),
    "unsuccessful_tiny-settings": settings_of("unsuccessful_tiny"),
    "train-speed": train_speed,
    "sizes": sizes,
    "r1_tiny-graph": graph_of("r1_tiny"),
    "r1_tiny-settings": settings_of("r1_tiny"),
    "r1_tiny-stages": stages_of("r1_tiny"),
    "r1_tiny-seeds": seeds_of("r1_tiny"),
    "r1_tiny-findings": findings_of("r1_tiny"),
    "r1_tiny-last-stage": findings_of("r1_tiny", "last_stage"),
    "controls_tiny-arms": arms_of("controls_tiny"),
    "controls_tiny-settings": settings_of("controls_tiny"),
    "distill_tiny-arms": arms_of("distill_tiny"),
    "distill_tiny-settings": settings_of("distill_tiny"),
    "preferences_real": preferences,
    "harness": harness,
    "sft-presets": presets,
    "v3_tiny-graph": graph_of("v3_tiny"),
    "v3_tiny-settings": settings_of("v3_tiny"),
    "v3_tiny-stages": stages_of("v3_tiny"),
    "v3_tiny-findings": findings_of("v3_tiny"),
    "r1_real-graph": graph_of("r1_real"),
    "r1_real-settings": settings_of("r1_real"),
    "r1_real-stages": stages_of("r1_real"),
    "r1_real-findings": findings_of("r1_real"),
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
