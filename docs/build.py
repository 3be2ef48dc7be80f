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
from aha.report.plots import save_comparison_figure, save_readme_figure
from aha.report.reading import Run, load_run
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
    save_readme_figure(run.folder, path)


def _check_settings(run: Path) -> None:
    """The figures must be those of the recipe as it stands, or the page would describe what nobody ran."""
    made = read_json(run / "recipe.json")
    assignments = [f"{name}={value}" for name, value in made["arguments"].items() if value != ""]
    now = canonical(describe(load_pipeline(made["recipe"], assignments)[0]))
    before = {stage["name"]: stage["settings"] for stage in made["stages"]}
    after = {stage["name"]: stage["settings"] for stage in now["stages"]}
    if before.keys() != after.keys():
        names = ", ".join(sorted(before.keys() ^ after.keys()))
        raise UsageError(f"{run} has other stages than the recipe now: {names}")
    changed = [f"{name}.{what}" for name in after for what in settings_changed(before[name], after[name])]
    if changed:
        raise UsageError(f"{run} was made with other settings than the recipe has: {'; '.join(changed)}")


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


def findings_of(recipe: str) -> Callable[[Results, Path], str]:
    """The report's sentences for the run with the lowest seed, beside what the paper says."""

    def block(results: Results, root: Path) -> str:
        summary = _first(results, recipe)
        if summary is None:
            return ""
        return "\n".join(
            f"- **{finding['title']}**: {finding['outcome']}. {finding['sentence']} "
            f"Paper: {finding['paper']} ({finding['source']})"
            for finding in summary["findings"]
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
    parts.append(
        f"Medians of {repeats[0]} to {repeats[-1]} steps, while the machine did other things, too. One thread of an "
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
    "train-speed": train_speed,
    "sizes": sizes,
    "r1_tiny-graph": graph_of("r1_tiny"),
    "r1_tiny-settings": settings_of("r1_tiny"),
    "r1_tiny-stages": stages_of("r1_tiny"),
    "r1_tiny-seeds": seeds_of("r1_tiny"),
    "r1_tiny-findings": findings_of("r1_tiny"),
    "controls_tiny-arms": arms_of("controls_tiny"),
    "controls_tiny-settings": settings_of("controls_tiny"),
    "distill_tiny-arms": arms_of("distill_tiny"),
    "distill_tiny-settings": settings_of("distill_tiny"),
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
