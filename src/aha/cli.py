"""The command line: one thin function a command. Heavy imports stand inside, after parsing, so that help is instant."""

from __future__ import annotations

import errno
import json
import math
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from aha import __version__, terminal
from aha.cli_bench import bench
from aha.cli_data import app as data_app
from aha.cli_models import evaluate, generate
from aha.cli_serve import serve
from aha.errors import AhaError, DataError, StageFailed, UsageError, nearest
from aha.terminal import Json

app = typer.Typer(
    name="aha",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A language model becomes a reasoning model the way DeepSeek-R1 was made, every step of it in view.",
)

app.add_typer(data_app, name="data")

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as 'aha run' makes.")]


def main() -> None:
    """The program: exit code 0 done, 1 failed, 2 wrong usage."""
    try:
        app()
    except AhaError as error:
        print(f"aha: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        print(f"aha: {_describe_os_error(error)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(1)


def _describe_os_error(error: OSError) -> str:
    what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{what}: free some space and run the same command again"
    return f"{what}: check that path and its permissions, or give another"


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
        int | None,
        typer.Option(
            min=1,
            help="Stages at once; one with more threads than the others counts as several.",
            show_default="cores / threads, at most 4; 1 on a GPU",
        ),
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
    again = _command_to_continue(recipe, out, assignments or [], only=only or [], jobs=jobs)
    try:
        run_pipeline(
            pipeline,
            folder,
            display=display,
            jobs=jobs or default_jobs(pipeline.threads),
            only=only or [],
            redo_from=start_from or [],
        )
    except (Stopped, StageFailed) as failure:
        display.close()
        try:
            _conclude(folder, as_json=as_json)
        except (Exception, KeyboardInterrupt) as trouble:  # it must not hide why the run ended
            print(f"aha: no report of {folder}: {type(trouble).__name__}: {trouble}", file=sys.stderr)
        raise type(failure)(f"{failure}\n     continue with: {again}") from None
    finally:
        display.close()
    _conclude(folder, as_json=as_json)


def _command_to_continue(
    recipe: str, out: Path | None, assignments: list[str], *, only: list[str], jobs: int | None
) -> str:
    """The same command without --from: what was to be redone is forgotten already, and would be redone twice."""
    words = ["aha", "run", recipe]
    words += ["--out", str(out)] if out else []
    for assignment in assignments:
        words += ["--set", assignment]
    for stage in only:
        words += ["--only", stage]
    words += ["--jobs", str(jobs)] if jobs else []
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
        terminal.print_json({"recipe": own.name, "run": str(folder), "stages": rows})
        return
    table = terminal.table("stage", "kind", "status", "will run", "seconds", "why", "set")
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
    terminal.print_rich(table)


def _conclude(folder: Path, *, as_json: bool) -> None:
    from aha.report.build import build_report
    from aha.report.reading import load_run
    from aha.util.files import read_json

    page = build_report(folder)
    summary = read_json(folder / "summary.json")
    if as_json:
        begun = [stage for stage in load_run(folder).stages if stage.status != "missing"]
        stages = {stage.name: {"status": stage.status, "seconds": stage.seconds} for stage in begun}
        terminal.print_json({"run": str(folder), "report": str(page), "stages": stages, "summary": summary})
        return
    _show_summary(summary)
    print(f"report: {page}", file=sys.stderr)


def _show_summary(summary: dict[str, Any]) -> None:
    from aha.report.comparisons import HEADS
    from aha.report.comparisons import rows as comparison_rows
    from aha.report.names import heading
    from aha.report.tables import measure_text, stage_columns

    for comparison in summary.get("comparisons", {}).values():
        table = terminal.table(*HEADS)
        for row in comparison_rows(comparison):
            table.add_row(*row)
        terminal.print_rich(table, error=True)
    measures = list(stage_columns(summary))
    rows = summary["stages"] | {f"{name} (stale)": row for name, row in summary.get("stale", {}).items()}
    stages = {name: row for name, row in rows.items() if any(key in row for key in measures)}
    if not stages:
        return
    table = terminal.table("stage", *map(heading, measures), "seconds")
    for name, row in stages.items():
        # The interval of pass@1 alone, so that a row fits a line; the report has them all.
        cells = [measure_text(key, row.get(key), interval=key == "pass@1") for key in measures]
        seconds = row.get("seconds")
        table.add_row(name, *cells, f"{seconds:.0f}" if seconds is not None else "")
    terminal.print_rich(table, error=True)


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
    """Show samples of a stage: reward by part, one transcript with the advantage of every token, what guards found."""
    from aha.report.guards import guard_events
    from aha.report.reading import read_rows

    stage = _stage_with_samples(target)
    samples = _read_samples(stage)
    events = guard_events(read_rows(stage / "metrics.jsonl"))
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
        guards = [asdict(event) for event in events]
        terminal.print_json({"target": str(target), "steps": steps, "step": wanted, "samples": rows, "guards": guards})
        return
    if detail >= len(rows):
        raise UsageError(f"--detail {detail}: the table has rows 0 to {len(rows) - 1}")
    names = sorted({name for row in rows for name in row["rewards"]})
    trained = any(row.get("advantages") for row in rows)  # an evaluation gives no reward, it judges
    reward = ["reward"] if trained else []
    table = terminal.table("#", "step", "task", "answer", *reward, *names, "tokens", "end", "completion")
    for number, row in enumerate(rows):
        table.add_row(
            str(number),
            str(row["step"]),
            row["task"],
            row["answer"],
            *([f"{row['reward']:.2f}"] if trained else []),
            *(f"{row['rewards'][name]:.2f}" if name in row["rewards"] else "" for name in names),
            str(len(row["tokens"])),
            row["finish_reason"],
            terminal.shorten(row["completion"], 48),
        )
    terminal.print_rich(table)
    _show_transcript(rows[detail])
    if events:
        table = terminal.table("step", "guard", "action", "finding")
        for event in events[-limit:]:
            table.add_row(str(event.step), event.what, event.action, event.says)
        terminal.print_rich(table)


def _stage_with_samples(target: Path) -> Path:
    """``target``, or the only stage of it that has samples."""
    if not any((target / "samples").glob("*.parquet")):
        stages = sorted(path.parent.name for path in target.glob("*/samples"))
        if not target.is_dir():
            known = sorted(path.parent.name for path in target.parent.glob("*/samples"))
            said = "is no folder of a run" if target.exists() else "does not exist"
            raise UsageError(f"{target} {said}; stages with samples: {nearest(target.name, known)}")
        if not stages:
            raise DataError(f"{target} has no samples/*.parquet, and none of its folders has")
        if len(stages) > 1:
            raise UsageError(f"{target} has samples of several stages: give one, {target}/NAME: {', '.join(stages)}")
        return target / stages[0]
    return target


def _read_samples(stage: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    samples: list[dict[str, Any]] = []
    for file in sorted((stage / "samples").glob("*.parquet")):
        try:
            for row in pyarrow.parquet.read_table(file).to_pylist():
                samples.append({**row, "rewards": json.loads(row["rewards"])})
        except (OSError, pyarrow.ArrowException, KeyError, ValueError) as error:
            raise DataError(f"{file}: cannot be read as samples ({error}); remove it, or redo its stage") from None
    if not samples:
        raise DataError(f"{stage}: its samples/*.parquet hold no rows")
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
    parts = ", ".join(f"{name} {value:.2f}" for name, value in row["rewards"].items())
    scores = f"reward {row['reward']:.2f}; unweighted parts: {parts}" if advantages else parts
    facts = Text(f"answer {row['answer'] or '(none)'}   {scores}", style="dim")
    if largest > 0:
        low, high = min(advantages), max(advantages)
        facts.append(f"\nadvantage of its tokens {low:+.2f} to {high:+.2f}: ")
        facts.append("pushed up", style="green").append(", ").append("pushed down", style="red")
    title = f"{row['problem_id']}  step {row['step']}"
    inside = Group(Text(row["prompt"], style="bold"), body, facts)
    terminal.print_rich(Panel(inside, title=Text(title), title_align="left"))


def _advantage_style(relative: float) -> str:
    """Green for what is made likelier, red for less likely, stronger the more; grey for untouched."""
    if relative == 0:
        return "grey62"
    level = round(95 + 160 * min(1.0, abs(relative)))
    return f"rgb(60,{level},60)" if relative > 0 else f"rgb({level},60,60)"


app.command()(generate)
app.command()(evaluate)
app.command()(serve)


@app.command()
def explain(
    problem: Annotated[
        str, typer.Argument(metavar="PROBLEM", help="FILE:ROW (from 1), or a gold answer of --task.")
    ],
    answer: Annotated[str, typer.Argument(metavar="ANSWER", help="A completion with tags, or a bare answer.")],
    task: Annotated[str, typer.Option(help="What a bare gold answers: number, math, choice...")] = "number",
    as_json: Json = False,
) -> None:
    """Show what the verifier sees in an answer, what it compares, and its verdict."""
    from aha.reward.explain import explain as judge
    from aha.reward.explain import find_problem

    found = judge(find_problem(problem, task=task), answer)
    verdicts = [verdict for verdict in (found.accuracy, found.format) if verdict is not None]
    if as_json:
        terminal.print_json(
            {
                "task": found.problem.task,
                "problem": found.problem.prompt,
                "gold": found.problem.answer,
                "think": found.response.think,
                "answer": found.answer.text if found.answer else None,
                "found_by": found.answer.rule if found.answer else None,
                "remark": found.remark,
                "compared": [vars(row) for row in found.compared],
                "verdicts": {v.name: {"status": v.status.value, "score": v.score, "note": v.note} for v in verdicts},
            }
        )
        return
    table = terminal.table("", "found", "wanted")
    if found.problem.prompt:
        table.add_row("problem", found.problem.prompt, "")
    if found.response.think:
        table.add_row("thinking", terminal.shorten(found.response.think, 80), "")
    table.add_row("answer", found.answer.text if found.answer else f"(none: {found.remark})", found.problem.answer)
    if found.answer:
        table.add_row("found by", found.answer.rule, "")
    for row in found.compared:
        table.add_row(row.what, row.found, row.wanted)
    terminal.print_rich(table)
    if found.remark and found.answer:
        print(found.remark)
    for verdict in verdicts:
        print(f"{verdict.name}: {verdict.status.value.upper()} (score {verdict.score:g})")


@app.command()
def algorithms(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME [OTHER]]", help="One in all its choices; of two, what differs.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the table of RL algorithms, one whole, or what differs between two: aha algorithms grpo dapo."""
    from aha.objective.algorithms import ALGORITHMS
    from aha.objective.describe import choices, describe, differences

    names = names or []
    for name in names:
        if name not in ALGORITHMS:
            raise UsageError(f"no algorithm {name!r}: {nearest(name, ALGORITHMS)}")
    if len(names) > 2:
        raise UsageError(f"{len(names)} names: give one to see it whole, two to see what differs")
    rows = [ALGORITHMS[name] for name in names or ALGORITHMS]
    if len(names) == 2:
        found = differences(*rows)
        if as_json:
            terminal.print_json({"differs": {key: dict(zip(names, pair, strict=True)) for key, pair in found.items()}})
            return
        table = terminal.table("choice", *names)
        for key, pair in found.items():
            table.add_row(key, *("-" if value is None else str(value) for value in pair))
        terminal.print_rich(table)
    elif as_json:
        terminal.print_json({"algorithms": {row.name: {**choices(row), "citation": row.citation} for row in rows}})
        return
    elif names:
        table = terminal.table("choice", names[0])
        for key, value in choices(rows[0]).items():
            table.add_row(key, "-" if value is None else str(value))
        terminal.print_rich(table)
    else:
        table = terminal.table("algorithm", *describe(rows[0]))
        for row in rows:
            table.add_row(row.name, *describe(row).values())
        terminal.print_rich(table)
        return
    for row in rows:
        print(f"{row.name}: {row.citation}")


app.command()(bench)


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="A .gguf file, a stage of a run, or a Hugging Face model folder.")
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The Hugging Face model folder to write.")],
    dtype: Annotated[str, typer.Option(help="Type of the weights: float32, bfloat16, float16 or fp8.")] = "float32",
    shard_size: Annotated[float, typer.Option(min=0.0, help="Gigabytes a file; more become several files.")] = 5.0,
) -> None:
    """Convert a model into a loadable Hugging Face folder, one tensor in memory at a time."""
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "fp8": torch.float8_e4m3fn}
    if dtype not in known:
        raise UsageError(f"--dtype {dtype}: {nearest(dtype, known)}")
    if not math.isfinite(shard_size):
        raise UsageError(f"--shard-size {shard_size}: gigabytes a file, a number")
    if not source.exists():
        raise UsageError(f"{source} does not exist")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} exists and is not empty: choose another folder")
    if source.suffix == ".gguf":
        from aha.model.gguf import convert_gguf

        if dtype == "fp8":
            raise UsageError("a .gguf file does not become FP8 in one go: convert it to bfloat16 first, that to fp8")
        convert_gguf(source, target, dtype=known[dtype])
    else:
        from aha.model.config_file import model_folder

        _convert_folder(model_folder(source), target, known[dtype], int(shard_size * 1e9))
    print(f"wrote {target}", file=sys.stderr)


def _convert_folder(source: Path, target: Path, dtype: Any, shard_bytes: int) -> None:
    import shutil

    from aha.model.folder import convert_folder
    from aha.model.heads import HEAD_FILE, STEP_HEAD_FILE
    from aha.stages.models import TEMPLATE_FILE

    convert_folder(source, target, dtype=dtype, shard_bytes=shard_bytes)
    beside = ("tokenizer", "special_tokens", "generation_config", "chat_template", "vocab", "merges", "added_tokens")
    ours = TEMPLATE_FILE, HEAD_FILE, STEP_HEAD_FILE, "card.json", "README.md"
    for file in source.iterdir():
        if file.is_file() and file.name.startswith((*beside, *ours)):
            shutil.copy2(file, target / file.name)


@app.command()
def count(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|CONFIG",
            help="A stage of a run, a model folder, its config.json, or a published model such as deepseek-v3.",
        ),
    ],
    context: Annotated[int, typer.Option(min=1, help="Tokens in view, for arithmetic and cache.")] = 2048,
    dtype: Annotated[str, typer.Option(help="Type of the cache: bfloat16, float16 or float32.")] = "bfloat16",
    mix: Annotated[
        str, typer.Option(help="Types that training holds: float32, bfloat16, mixed or deepseek-v3.")
    ] = "float32",
    layout: Annotated[
        str, typer.Option(help="What ranks share out: replicated (nothing), zero1 (moments, masters) or fsdp (all).")
    ] = "replicated",
    ranks: Annotated[int, typer.Option(min=1, help="Processes that train together.")] = 1,
    as_json: Json = False,
) -> None:
    """Count parameters, arithmetic per token, cache bytes and memory for training of a model, from its config alone."""
    from aha.model import count as counting
    from aha.model.config_file import find_config

    number_bytes = {"bfloat16": 2, "float16": 2, "float32": 4}
    for option, value, known in (("dtype", dtype, number_bytes), ("mix", mix, counting.MIXES),
                                 ("layout", layout, counting.LAYOUTS)):  # fmt: skip
        if value not in known:
            raise UsageError(f"--{option} {value}: {nearest(value, known)}")
    config = find_config(model)
    parts = counting.count_by_part(config)
    cache_bytes = counting.cache_bytes_per_token(config, bytes_per_number=number_bytes[dtype])
    figures = {
        "model_type": config.model_type,
        "parameters": parts.total,
        "active_parameters": parts.active,
        "active_parameters_without_embedding": parts.active - parts.embedding,
        **{f"{part}_parameters": getattr(parts, part) for part in counting.PARTS},
        "multi_token_prediction_parameters": counting.count_ahead(config),
        "context": context,
        "flops_per_token": counting.flops_per_token(config, context=context),
        "training_flops_per_token": counting.flops_per_token(config, context=(context + 1) / 2, backward=True),
        "cache_dtype": dtype,
        "cache_bytes_per_token": cache_bytes,
        "cache_bytes": cache_bytes * context,
        "cache_values_per_token_and_layer": counting.cache_values_per_layer(config),
        "cache_values_of_multi_head_attention": counting.multi_head_values_per_layer(config),
        "training_mix": mix,
        "training_layout": f"{layout}, {ranks} ranks",
        "training_bytes_per_rank": counting.training_bytes(parts.total, mix=mix, layout=layout, ranks=ranks),
    }
    if as_json:
        terminal.print_json({"model": model, **figures})
        return
    table = terminal.table("", "")
    for key, figure in figures.items():
        table.add_row(key.replace("_", " "), f"{figure:,.0f}" if isinstance(figure, int | float) else str(figure))
    terminal.print_rich(table)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check that this machine can run: versions, cores, memory, disk, accelerator, starting a stage, the sandbox."""
    from aha.doctor import check_machine

    checks = check_machine()
    if as_json:
        terminal.print_json({"ok": all(check.ok for check in checks), "checks": [vars(check) for check in checks]})
    else:
        table = terminal.table("check", "", "found")
        for check in checks:
            table.add_row(check.name, "ok" if check.ok else "PROBLEM", check.found)
        terminal.print_rich(table)
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def _require_run(run: Path) -> None:
    if not (run / "recipe.json").is_file():
        raise UsageError(f"{run} is not a run folder: it has no recipe.json")
