"""The command line: one thin function a command. Heavy imports stand inside, after parsing, so that help is instant."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from aha import __version__
from aha.errors import AhaError, CheckpointError, DataError, UsageError, nearest

app = typer.Typer(
    name="aha",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A language model becomes a reasoning model the way DeepSeek-R1 was made, every step of it in view.",
)

Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output; all else on standard error.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as 'aha run' makes.")]


def main() -> None:
    """The program: exit code 0 done, 1 failed, 2 wrong usage."""
    try:
        app()
    except AhaError as error:
        print(f"aha: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(1)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"aha {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="Name of a file in recipes/, or the path of a .py file.")],
    out: Annotated[Path | None, typer.Option(help="Run folder.", show_default="runs/RECIPE")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="stage.key=value, or a recipe argument such as seed=1."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="STAGE", help="Run this stage alone (repeatable).")] = None,
    start_from: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="STAGE", help="Redo this stage and all that use it, even if done."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done; write nothing.")] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Stages at once.", show_default="number of cores, at most 4")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a recipe: do what is missing, continue what is partial, name and redo what is stale."""
    from aha.pipeline.forkserver import stage_modules, start_forkserver

    if not dry_run:
        start_forkserver(stage_modules())  # it imports while this process does
    from aha.pipeline.display import build_display
    from aha.pipeline.recipe import load_pipeline
    from aha.pipeline.runner import Stopped, default_jobs, plan_run, run_pipeline

    own, pipeline = load_pipeline(recipe, assignments or [])
    folder = out or Path("runs") / pipeline.name
    if dry_run:
        plan = plan_run(pipeline, folder, only=only or [], redo_from=start_from or [])
        _show_plan(own, plan, folder, as_json=as_json)
        return
    display = build_display()
    again = _command_to_continue(recipe, out, assignments or [])
    try:
        run_pipeline(
            pipeline,
            folder,
            display=display,
            jobs=jobs or default_jobs(),
            only=only or [],
            redo_from=start_from or [],
        )
    except Stopped as stopped:
        display.close()
        raise AhaError(f"{stopped}\n     continue with: {again}") from None
    finally:
        display.close()
    _conclude(folder, as_json=as_json)


def _command_to_continue(recipe: str, out: Path | None, assignments: list[str]) -> str:
    words = ["aha", "run", recipe]
    words += ["--out", str(out)] if out else []
    for assignment in assignments:
        words += ["--set", assignment]
    return shlex.join(words)


def _show_plan(own: Any, plan: Any, folder: Path, *, as_json: bool) -> None:
    from aha.config import canonical
    from aha.pipeline.fingerprint import settings_changed

    rows = []
    for planned in plan:
        before, now = canonical(own.stage(planned.stage.name).settings), canonical(planned.stage.settings)
        rows.append(
            {
                "stage": planned.stage.name,
                "kind": planned.stage.kind,
                "status": str(planned.status),
                "will_run": planned.selected,
                "seconds": planned.seconds,
                "reasons": list(planned.reasons),
                "settings_changed": settings_changed(before, now),
            }
        )
    if as_json:
        _print_json({"recipe": own.name, "run": str(folder), "stages": rows})
        return
    table = _table("stage", "kind", "status", "will run", "seconds", "why", "set")
    for row in rows:
        table.add_row(
            row["stage"],
            row["kind"],
            row["status"],
            "yes" if row["will_run"] else "no",
            f"{row['seconds']:.1f}" if row["seconds"] else "",
            "\n".join(row["reasons"]),
            "\n".join(row["settings_changed"]),
        )
    _print_rich(table)


def _conclude(folder: Path, *, as_json: bool) -> None:
    from aha.report.build import build_report
    from aha.util.files import read_json

    page = build_report(folder)
    summary = read_json(folder / "summary.json")
    ledger = read_json(folder / "ledger.json")["stages"]
    if as_json:
        stages = {name: {"status": row["status"], "seconds": row["seconds"]} for name, row in ledger.items()}
        _print_json({"run": str(folder), "report": str(page), "stages": stages, "summary": summary})
        return
    _show_summary(summary)
    print(f"report: {page}", file=sys.stderr)


def _show_summary(summary: dict[str, Any]) -> None:
    measures = ("pass@1", "cons@16", "pass@16", "general", "length", "format", "language")
    stages = {name: row for name, row in summary["stages"].items() if any(key in row for key in measures)}
    if not stages:
        return
    table = _table("stage", *measures, "seconds")
    for name, row in stages.items():
        cells = [_show_interval(row.get(key)) for key in measures]
        seconds = row.get("seconds")
        table.add_row(name, *cells, f"{seconds:.0f}" if seconds is not None else "")
    _print_rich(table, error=True)


def _show_interval(measure: Any) -> str:
    if not isinstance(measure, dict) or measure.get("value") is None:
        return ""
    value, low, high = measure["value"], measure.get("low"), measure.get("high")
    digits = 1 if abs(value) > 2 else 3
    if low is None or high is None:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} ±{(high - low) / 2:.{digits}f}"


@app.command()
def report(run: RunFolder, as_json: Json = False) -> None:
    """Build summary.json and report.html of a run again, from its files alone."""
    _require_run(run)
    _conclude(run, as_json=as_json)


@app.command()
def inspect(
    target: Annotated[Path, typer.Argument(metavar="RUN[/STAGE]", help="A run folder or one of its stages.")],
    step: Annotated[int | None, typer.Option(help="Samples of this step only.", show_default="the last")] = None,
    task: Annotated[str | None, typer.Option(help="Samples of this task only.")] = None,
    problem: Annotated[str | None, typer.Option(help="Samples of this problem only.")] = None,
    detail: Annotated[int, typer.Option(min=0, help="Row of the table to show in full.")] = 0,
    limit: Annotated[int, typer.Option(min=1, help="Rows to show.")] = 16,
    as_json: Json = False,
) -> None:
    """Show samples of a stage: reward by part, and one transcript with the advantage of every token."""
    samples = _read_samples(target)
    steps = sorted({sample["step"] for sample in samples})
    if step is not None and step not in steps:
        raise UsageError(f"{target} has no samples of step {step}: steps {', '.join(map(str, steps))}")
    wanted = steps[-1] if step is None else step
    tasks = sorted({sample["task"] for sample in samples})
    if task is not None and task not in tasks:
        raise UsageError(f"{target} has no samples of task {task!r}: {nearest(task, tasks)}")
    rows = [
        sample
        for sample in samples
        if sample["step"] == wanted
        and (task is None or sample["task"] == task)
        and (problem is None or sample["problem_id"] == problem)
    ][:limit]
    if not rows:
        raise UsageError(f"{target}: no sample of step {wanted} fits --task and --problem")
    if as_json:
        _print_json({"target": str(target), "steps": steps, "step": wanted, "samples": rows})
        return
    if detail >= len(rows):
        raise UsageError(f"--detail {detail}: the table has rows 0 to {len(rows) - 1}")
    names = sorted({name for row in rows for name in row["rewards"]})
    table = _table("#", "step", "task", "answer", "reward", *names, "tokens", "end", "completion")
    for number, row in enumerate(rows):
        table.add_row(
            str(number),
            str(row["step"]),
            row["task"],
            row["answer"],
            f"{row['reward']:.2f}",
            *(f"{row['rewards'][name]:.2f}" if name in row["rewards"] else "" for name in names),
            str(len(row["tokens"])),
            row["finish_reason"],
            _shorten(row["completion"], 48),
        )
    _print_rich(table)
    _show_transcript(rows[detail])


def _read_samples(target: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    files = sorted((target / "samples").glob("*.parquet"))
    if not files:
        stages = sorted(path.parent.name for path in target.glob("*/samples"))
        if not target.is_dir():
            known = sorted(path.parent.name for path in target.parent.glob("*/samples"))
            raise UsageError(f"{target} does not exist; stages with samples: {nearest(target.name, known)}")
        if not stages:
            raise DataError(f"{target} has no samples/*.parquet, and none of its folders has")
        files = sorted((target / stages[-1] / "samples").glob("*.parquet"))
        if len(stages) > 1:
            raise UsageError(f"{target} has samples of several stages: give one, {target}/NAME: {', '.join(stages)}")
    samples: list[dict[str, Any]] = []
    for file in files:
        for row in pyarrow.parquet.read_table(file).to_pylist():
            samples.append({**row, "rewards": json.loads(row["rewards"])})
    if not samples:
        raise DataError(f"{target}: its samples/*.parquet hold no rows")
    return samples


def _show_transcript(row: dict[str, Any]) -> None:
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    body = Text()
    advantages = row.get("advantages") or []
    largest = max((abs(value) for value in advantages), default=0.0)
    if row["tokens"] and len(advantages) == len(row["tokens"]) and largest > 0:
        for token, advantage in zip(row["tokens"], advantages, strict=True):
            body.append(token, style=_advantage_style(advantage / largest))
    else:
        body.append(row["completion"])
    rewards = "  ".join(f"{name} {value:.2f}" for name, value in row["rewards"].items())
    facts = Text(f"answer {row['answer'] or '(none)'}   reward {row['reward']:.2f} = {rewards}", style="dim")
    if largest > 0:
        low, high = min(advantages), max(advantages)
        facts.append(f"\nadvantage of its tokens {low:+.2f} to {high:+.2f}: ")
        facts.append("pushed up", style="green").append(", ").append("pushed down", style="red")
    title = f"{row['problem_id']}  step {row['step']}"
    _print_rich(Panel(Group(Text(row["prompt"], style="bold"), body, facts), title=Text(title), title_align="left"))


def _advantage_style(relative: float) -> str:
    """Green for what is made likelier, red for less likely, stronger the more; grey for untouched."""
    if relative == 0:
        return "grey62"
    level = round(95 + 160 * min(1.0, abs(relative)))
    return f"rgb(60,{level},60)" if relative > 0 else f"rgb({level},60,60)"


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A .gguf file or a Hugging Face model folder.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The Hugging Face model folder to write.")],
    dtype: Annotated[str, typer.Option(help="Weights of a folder become float32, bfloat16 or float16.")] = "float32",
) -> None:
    """Convert a model into a loadable Hugging Face folder."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} exists and is not empty: choose another folder")
    if not source.exists():
        raise UsageError(f"{source} does not exist")
    if source.suffix == ".gguf":
        from aha.model.gguf import convert_gguf

        convert_gguf(source, target)
    else:
        _convert_folder(source, target, dtype)
    print(f"wrote {target}", file=sys.stderr)


def _convert_folder(source: Path, target: Path, dtype: str) -> None:
    import shutil

    import torch

    from aha.model.folder import load_model, save_model

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in known:
        raise UsageError(f"--dtype {dtype}: {nearest(dtype, known)}")
    decoder, config = load_model(source, dtype=known[dtype])
    save_model(decoder, config, target)
    beside = ("tokenizer", "special_tokens", "generation_config", "chat_template", "vocab", "merges", "added_tokens")
    for file in source.iterdir():
        if file.is_file() and file.name.startswith(beside):
            shutil.copy2(file, target / file.name)


@app.command()
def count(
    model: Annotated[Path, typer.Argument(metavar="MODEL|CONFIG", help="A model folder or its config.json.")],
    context: Annotated[int, typer.Option(min=1, help="Tokens in view, for arithmetic and cache.")] = 2048,
    as_json: Json = False,
) -> None:
    """Count parameters, arithmetic per token and cache bytes of a model, from its config alone."""
    from aha.model.count import cache_bytes_per_token, count_parameters, flops_per_token
    from aha.model.folder import load_config

    if not model.exists():
        raise CheckpointError(f"{model} does not exist")
    config = load_config(model.parent if model.name == "config.json" else model)
    figures = {
        "model_type": config.model_type,
        "parameters": count_parameters(config),
        "context": context,
        "flops_per_token": flops_per_token(config, context=context),
        "training_flops_per_token": flops_per_token(config, context=(context + 1) / 2, backward=True),
        "cache_bytes_per_token": cache_bytes_per_token(config),
        "cache_bytes": cache_bytes_per_token(config) * context,
    }
    if as_json:
        _print_json({"model": str(model), **figures})
        return
    table = _table("", "")
    for key, value in figures.items():
        table.add_row(key.replace("_", " "), f"{value:,.0f}" if isinstance(value, int | float) else str(value))
    _print_rich(table)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check that this machine can run: versions, cores, memory, disk, accelerator, starting a stage."""
    from aha.doctor import check_machine

    checks = check_machine()
    if as_json:
        _print_json({"ok": all(check.ok for check in checks), "checks": [vars(check) for check in checks]})
    else:
        table = _table("check", "", "found")
        for check in checks:
            table.add_row(check.name, "ok" if check.ok else "PROBLEM", check.found)
        _print_rich(table)
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def _require_run(run: Path) -> None:
    if not (run / "recipe.json").is_file():
        raise UsageError(f"{run} is not a run folder: it has no recipe.json")


def _shorten(text: str, length: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def _table(*headers: str) -> Any:
    from rich import box
    from rich.table import Table

    return Table(*headers, box=box.SIMPLE_HEAD, show_header=any(headers))


def _print_rich(renderable: Any, *, error: bool = False) -> None:
    from rich.console import Console

    stream = sys.stderr if error else sys.stdout
    console = Console(file=stream, markup=False, highlight=False, width=None if stream.isatty() else 160)
    console.print(renderable)


def _print_json(obj: dict[str, Any]) -> None:
    print(json.dumps(obj, ensure_ascii=False))
