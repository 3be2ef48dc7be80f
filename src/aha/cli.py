"""The command line: one thin function a command. Heavy imports stand inside, after parsing, so that help is instant."""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from aha import __version__
from aha.errors import AhaError, CheckpointError, DataError, StageFailed, UsageError, nearest

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
ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A stage of a run, its model folder, or any Hugging Face folder.")
]
MaxNewTokens = Annotated[
    int | None, typer.Option(min=1, help="Tokens to sample at most.", show_default="what fits, at most 1024")
]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 takes the most likely token.")]
TopP = Annotated[float, typer.Option(min=0.0, max=1.0, help="Sample from this share of the probability.")]
Template = Annotated[
    str | None, typer.Option(help="Prompt with one {question} in it.", show_default="the model's own, or R1-Zero's")
]


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
        int | None, typer.Option(min=1, help="Stages at once.", show_default="cores / threads, at most 4; 1 on a GPU")
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
    from aha.report.reading import load_run
    from aha.util.files import read_json

    page = build_report(folder)
    summary = read_json(folder / "summary.json")
    if as_json:
        begun = [stage for stage in load_run(folder).stages if stage.status != "missing"]
        stages = {stage.name: {"status": stage.status, "seconds": stage.seconds} for stage in begun}
        _print_json({"run": str(folder), "report": str(page), "stages": stages, "summary": summary})
        return
    _show_summary(summary)
    print(f"report: {page}", file=sys.stderr)


def _show_summary(summary: dict[str, Any]) -> None:
    from aha.report.comparisons import HEADS
    from aha.report.comparisons import rows as comparison_rows
    from aha.report.tables import stage_columns

    for comparison in summary.get("comparisons", {}).values():
        table = _table(*HEADS)
        for row in comparison_rows(comparison):
            table.add_row(*row)
        _print_rich(table, error=True)
    measures = list(stage_columns(summary))
    rows = summary["stages"] | {f"{name} (stale)": row for name, row in summary.get("stale", {}).items()}
    stages = {name: row for name, row in rows.items() if any(key in row for key in measures)}
    if not stages:
        return
    table = _table("stage", *map(_heading, measures), "seconds")
    for name, row in stages.items():
        # The interval of pass@1 alone, so that a row fits a line; the report has them all.
        cells = [_show_measure(key, row.get(key), interval=key == "pass@1") for key in measures]
        seconds = row.get("seconds")
        table.add_row(name, *cells, f"{seconds:.0f}" if seconds is not None else "")
    _print_rich(table, error=True)


def _heading(metric: str) -> str:
    from aha.report.names import is_proportion

    return f"{metric} %" if is_proportion(metric) else metric


def _show_measure(metric: str, entry: Any, *, interval: bool = True) -> str:
    """``80.5 (78.1–82.9)``: as the report, in percent where it is a share, with the 95 % interval."""
    from aha.report.reading import parse_measure
    from aha.report.tables import cell

    measure = parse_measure(entry)
    if measure is None:
        return ""
    value, bounds = cell(metric, measure)
    return f"{value} ({bounds})" if interval and bounds else value


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
        _print_json({"target": str(target), "steps": steps, "step": wanted, "samples": rows, "guards": guards})
        return
    if detail >= len(rows):
        raise UsageError(f"--detail {detail}: the table has rows 0 to {len(rows) - 1}")
    names = sorted({name for row in rows for name in row["rewards"]})
    trained = any(row.get("advantages") for row in rows)  # an evaluation gives no reward, it judges
    reward = ["reward"] if trained else []
    table = _table("#", "step", "task", "answer", *reward, *names, "tokens", "end", "completion")
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
            _shorten(row["completion"], 48),
        )
    _print_rich(table)
    _show_transcript(rows[detail])
    if events:
        table = _table("step", "guard", "action", "finding")
        for event in events[-limit:]:
            table.add_row(str(event.step), event.what, event.action, event.says)
        _print_rich(table)


def _stage_with_samples(target: Path) -> Path:
    """``target``, or the only stage of it that has samples."""
    if not any((target / "samples").glob("*.parquet")):
        stages = sorted(path.parent.name for path in target.glob("*/samples"))
        if not target.is_dir():
            known = sorted(path.parent.name for path in target.parent.glob("*/samples"))
            raise UsageError(f"{target} does not exist; stages with samples: {nearest(target.name, known)}")
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
    _print_rich(Panel(Group(Text(row["prompt"], style="bold"), body, facts), title=Text(title), title_align="left"))


def _advantage_style(relative: float) -> str:
    """Green for what is made likelier, red for less likely, stronger the more; grey for untouched."""
    if relative == 0:
        return "grey62"
    level = round(95 + 160 * min(1.0, abs(relative)))
    return f"rgb(60,{level},60)" if relative > 0 else f"rgb({level},60,60)"


@app.command()
def generate(
    model: ModelPath,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The question; the model's template goes around it.")],
    num: Annotated[int, typer.Option("--n", min=1, help="Completions to sample.")] = 1,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = 0.6,
    top_p: TopP = 0.95,
    seed: Annotated[int, typer.Option(help="Completion i depends on this and i alone.")] = 0,
    template: Template = None,
    search: Annotated[
        str | None,
        typer.Option(help="vote, best-of-n, beam, lookahead or mcts: one answer from N completions, or as many beams."),
    ] = None,
    scorer: Annotated[
        Path | None, typer.Option(help="A process reward model, which every search but vote needs.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask a model: its thinking and its answer, apart."""
    known = ["vote", "best-of-n", "beam", "lookahead", "mcts"]
    if search is not None and search not in known:
        raise UsageError(f"--search {search}: {nearest(search, known)}")
    if (search in known[1:]) != (scorer is not None):
        raise UsageError("--search best-of-n, beam, lookahead and mcts need --scorer MODEL, and nothing else takes it")
    from aha.stages.generate import generate as sample
    from aha.stages.generate import open_model, vote

    policy, origin = open_model(model, template=template)
    print(f"template {origin}: {_shorten(policy.renderer.template, 200)}", file=sys.stderr)
    if search is not None and scorer is not None:
        _search_one(policy, prompt, search, scorer, num, max_new_tokens, temperature, top_p, seed, as_json=as_json)
        return
    with _spinner("sampling"):
        answers = sample(
            policy,
            prompt,
            num=num,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
        )
    voted = vote(answers.answers) if search else None
    if as_json:
        rows = [
            {
                "text": answer.text,
                "think": answer.response.think,
                "answer": answer.response.answer,
                "well_formed": answer.response.well_formed,
                "finish_reason": answer.finish_reason.value,
                "tokens": answer.tokens,
                "logprob": answer.logprob,
            }
            for answer in answers.answers
        ]
        speed = {"seconds": answers.seconds, "tokens_per_second": answers.tokens_per_second}
        _print_json(
            {"model": str(model), "prompt": answers.prompt, "completions": rows, **speed}
            | ({"vote": vars(voted)} if voted else {})
        )
        return
    for index, answer in enumerate(answers.answers):
        _print_rich(_answer_panel(index, answer))
    if voted:
        _print_rich(_vote_line(voted, num))
    tokens = sum(answer.tokens for answer in answers.answers)
    print(f"{tokens} tokens, {answers.seconds:.2f} s, {answers.tokens_per_second:.1f} tokens/s", file=sys.stderr)


def _search_one(
    policy: Any,
    prompt: str,
    name: str,
    scorer: Path,
    num: int,
    max_new_tokens: int | None,
    temperature: float,
    top_p: float,
    seed: int,
    *,
    as_json: bool,
) -> None:
    from aha.stages.generate import search_answer

    with _spinner("searching"):
        answer, spent = search_answer(
            policy,
            prompt,
            name,
            scorer,
            num=num,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
        )
    if as_json:
        chosen = {
            "text": answer.text,
            "think": answer.response.think,
            "answer": answer.response.answer,
            "finish_reason": answer.finish_reason.value if answer.finish_reason else None,
            "tokens": answer.tokens,
        }
        _print_json({"search": name, "n": num, "chosen": chosen, "spent": asdict(spent)})
        return
    _print_rich(_answer_panel(name, answer))
    print(f"{spent.sampled} tokens in {spent.sequences} sequences, {spent.scored} read by the scorer", file=sys.stderr)


def _answer_panel(name: int | str, answer: Any) -> Any:
    from rich.panel import Panel
    from rich.text import Text

    response = answer.response
    title = Text(f"{name}  {answer.tokens} tokens, ended by {answer.finish_reason.value}")
    if response.answer is None:
        body = Text(answer.text or "(nothing)").append("\n\nno single <answer>...</answer>", style="red")
    else:
        body = Text("think   ", style="bold").append(response.think or "(nothing)", style="dim italic")
        body.append("\n\nanswer  ", style="bold").append(response.answer, style="bold green")
        if not response.well_formed:
            body.append("\n\nthe tags do not follow the format", style="red")
    return Panel(body, title=title, title_align="left")


def _vote_line(voted: Any, num: int) -> Any:
    from rich.text import Text

    if voted.answer is None:
        return Text(f"vote: none of {num} completions answers with a number or an expression", style="red")
    counts = ", ".join(f"{key} x{count}" for key, count in voted.counts.items())
    abstained = f", {voted.abstained} abstained" if voted.abstained else ""
    return Text("vote    ", style="bold").append(voted.answer, style="bold green").append(f"  ({counts}{abstained})")


@app.command()
def evaluate(
    model: ModelPath,
    bench: Annotated[
        list[str],
        typer.Option(metavar="NAME|FILE.jsonl", help="chain, countdown, arithmetic, gym:FAMILY or a file; repeatable."),
    ],
    samples: Annotated[int, typer.Option(min=1, help="Completions of each problem.")] = 16,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = 0.6,
    top_p: TopP = 0.95,
    limit: Annotated[int | None, typer.Option(min=1, help="Problems of each bench.", show_default="all")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampling; the benches stay the same.")] = 0,
    template: Template = None,
    out: Annotated[Path | None, typer.Option(help="Write the JSON object to this file too.")] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a model on held-out problems: pass@1, cons@k, pass@k with 95 % intervals, format, language, length."""
    from aha.data.problems import BadGold
    from aha.evaluate.benches import load_bench

    if out:
        _check_writable(out)  # before hours of work
    dropped: dict[str, list[BadGold]] = {name: [] for name in bench}
    benches = {name: load_bench(name, limit=limit, dropped=dropped[name]) for name in bench}
    for bad in (bad for rows in dropped.values() for bad in rows):
        print(f"left out: {bad.file}, row {bad.row}: {bad.why}", file=sys.stderr)
    from aha.stages.assess import assess
    from aha.stages.generate import open_model
    from aha.util.files import write_json_atomic

    policy, origin = open_model(model, template=template)
    print(f"template {origin}: {_shorten(policy.renderer.template, 200)}", file=sys.stderr)
    with _progress_bar(sum(map(len, benches.values())), "problems") as advance:
        results = assess(
            policy,
            benches,
            samples=samples,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            progress=advance,
        )
    for name, rows in dropped.items():
        if rows:
            results[name]["dropped_golds"] = [{"row": bad.row, "gold": bad.gold, "why": bad.why} for bad in rows]
    sampling = {"samples": samples, "temperature": temperature, "top_p": top_p, "seed": seed}
    found = {"model": str(model), **sampling, "template": policy.renderer.template, "benches": results}
    if as_json:
        _print_json(found)
    else:
        _show_benches(results, samples)
    if out:
        write_json_atomic(out, found)


def _check_writable(out: Path) -> None:
    import tempfile

    if out.is_dir():
        raise UsageError(f"--out {out} is a folder: give the file to write")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise UsageError(f"--out {out}: cannot write into {out.parent} ({error.strerror}): choose another") from None


def _show_benches(results: dict[str, dict[str, Any]], samples: int) -> None:
    largest = 1 << (samples.bit_length() - 1)
    measures = list(dict.fromkeys(("pass@1", f"cons@{largest}", f"pass@{largest}", "format", "language", "length")))
    table = _table("bench", "problems", *map(_heading, measures), "seconds")
    for name, row in results.items():
        cells = [_show_measure(key, row[key]) for key in measures]
        table.add_row(Path(name).name, str(row["problems"]), *cells, f"{row['seconds']:.1f}")
        if len(row["by_task"]) > 1:
            for task, part in row["by_task"].items():
                table.add_row(f"  {task}", "", *(_show_measure(key, part.get(key)) for key in measures), "")
    _print_rich(table)


@app.command()
def explain(
    problem: Annotated[
        str, typer.Argument(metavar="PROBLEM", help="FILE.jsonl:ROW (from 1), or a gold answer of --task.")
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
        _print_json(
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
    table = _table("", "found", "wanted")
    if found.problem.prompt:
        table.add_row("problem", found.problem.prompt, "")
    if found.response.think:
        table.add_row("thinking", _shorten(found.response.think, 80), "")
    table.add_row("answer", found.answer.text if found.answer else f"(none: {found.remark})", found.problem.answer)
    if found.answer:
        table.add_row("found by", found.answer.rule, "")
    for row in found.compared:
        table.add_row(row.what, row.found, row.wanted)
    _print_rich(table)
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
            _print_json({"differs": {key: dict(zip(names, pair, strict=True)) for key, pair in found.items()}})
            return
        table = _table("choice", *names)
        for key, pair in found.items():
            table.add_row(key, *("-" if value is None else str(value) for value in pair))
        _print_rich(table)
    elif as_json:
        _print_json({"algorithms": {row.name: {**choices(row), "citation": row.citation} for row in rows}})
        return
    elif names:
        table = _table("choice", names[0])
        for key, value in choices(rows[0]).items():
            table.add_row(key, "-" if value is None else str(value))
        _print_rich(table)
    else:
        table = _table("algorithm", *describe(rows[0]))
        for row in rows:
            table.add_row(row.name, *describe(row).values())
        _print_rich(table)
        return
    for row in rows:
        print(f"{row.name}: {row.citation}")


@app.command()
def bench(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A file of benchmarks/: rollout, train, verdicts or search.")
    ],
    model: Annotated[
        Path | None, typer.Argument(metavar="[MODEL]", help="Of search: the model that is searched with.")
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Timed runs of each side, in turn; medians are shown.")] = 3,
    peers: Annotated[bool, typer.Option(help="Measure transformers and TRL in the same run.")] = True,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16, on both sides.")] = "float32",
    skew: Annotated[bool, typer.Option("--skew", help="Lengths from 16 to 256 instead of 128 for all.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads of both sides.")] = 1,
    scorer: Annotated[
        Path | None, typer.Option(help="Of search: a process reward model, for the searches that judge.")
    ] = None,
    problems: Annotated[str, typer.Option("--bench", help="Of search: problems, as 'aha evaluate' takes.")] = "chain",
    limit: Annotated[int | None, typer.Option(min=1, help="Of search: problems to ask.", show_default="all")] = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = 0.6,
    top_p: TopP = 0.95,
    seed: Annotated[int, typer.Option(help="Of search: seed of the sampling.")] = 0,
    picture: Annotated[Path | None, typer.Option(help="Of search: draw accuracy against tokens here.")] = None,
    as_json: Json = False,
) -> None:
    """Measure speed side by side with the peers in one run; or accuracy against tokens, by search."""
    if (name == "search") != (model is not None):
        raise UsageError("aha bench search MODEL: search needs a model, and no other benchmark takes one")
    if dtype not in ("float32", "bfloat16"):
        raise UsageError(f"--dtype {dtype}: {nearest(dtype, ['float32', 'bfloat16'])}")
    from aha.util.benchmarks import load_benchmark

    os.environ["OMP_NUM_THREADS"] = str(threads)  # read when torch is imported
    measure = load_benchmark(name)
    if model is not None:
        with _progress_bar(0, "searches") as advance:
            found = measure(
                model=model,
                scorer=scorer,
                bench=problems,
                limit=limit,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                seed=seed,
                picture=picture,
                progress=advance,
            )
        if as_json:
            _print_json(found)
        else:
            _show_scaling(found)
        return
    with redirect_stdout(sys.stderr):  # peers print as they please
        found = measure(repeat=repeat, peers=peers, dtype=dtype, skew=skew, threads=threads)
    if as_json:
        _print_json(found)
        return
    table = _table("measured", "median", "least", "most", "unit", "peak MiB")
    for row in found["rows"]:
        memory = row["peak_rss_mib"]
        cells = [f"{row[key]:,.2f}" if row[key] < 100 else f"{row[key]:,.0f}" for key in ("median", "low", "high")]
        table.add_row(row["name"], *cells, row["unit"], f"{memory:,.0f}" if memory else "")
    _print_rich(table)
    for text, ratio in found["ratios"].items():
        print(f"{text}: {ratio['wall']:.2f}x ({ratio['cpu']:.2f}x in processor time)")
    for note in found["notes"]:
        print(note)
    print("  ".join(f"{package} {version}" for package, version in found["versions"].items()))


def _show_scaling(found: dict[str, Any]) -> None:
    table = _table("search", "budget", "accuracy %", "tokens", "scorer reads", "seconds", "by bin %, easy to hard")
    for row in found["rows"]:
        bins = "  ".join(f"{100 * value:.0f}" for value in row["by_bin"])
        accuracy, tokens = (_show_measure(key, row[key], interval=key == "accuracy") for key in ("accuracy", "tokens"))
        scored, seconds = f"{row['scored']:,.0f}", f"{row['seconds']:.1f}"
        table.add_row(row["strategy"], str(row["budget"]), accuracy, tokens, scored, seconds, bins)
    _print_rich(table)
    for oracle in found["oracle"]:
        print(f"oracle pass@{oracle['k']}: {100 * oracle['value']:.1f} %")
    for row in found["compute_optimal"]:
        chosen = ", ".join(f"bin {number} {name}" for number, name in row["best"].items())
        print(f"budget {row['budget']}: {100 * row['accuracy']['value']:.1f} % by the best of each bin: {chosen}")


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="A .gguf file, a stage of a run, or a Hugging Face model folder.")
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The Hugging Face model folder to write.")],
    dtype: Annotated[str, typer.Option(help="Type of the weights: float32, bfloat16 or float16.")] = "float32",
) -> None:
    """Convert a model into a loadable Hugging Face folder."""
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in known:
        raise UsageError(f"--dtype {dtype}: {nearest(dtype, known)}")
    if not source.exists():
        raise UsageError(f"{source} does not exist")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} exists and is not empty: choose another folder")
    if source.suffix == ".gguf":
        from aha.model.gguf import convert_gguf

        convert_gguf(source, target, dtype=known[dtype])
    else:
        from aha.stages.generate import model_folder

        _convert_folder(model_folder(source), target, known[dtype])
    print(f"wrote {target}", file=sys.stderr)


def _convert_folder(source: Path, target: Path, dtype: Any) -> None:
    import shutil

    from aha.model.folder import load_model, save_model
    from aha.stages.models import TEMPLATE_FILE

    decoder, config = load_model(source, dtype=dtype)
    save_model(decoder, config, target)
    beside = ("tokenizer", "special_tokens", "generation_config", "chat_template", "vocab", "merges", "added_tokens")
    for file in source.iterdir():
        if file.is_file() and file.name.startswith((*beside, TEMPLATE_FILE)):
            shutil.copy2(file, target / file.name)


@app.command()
def count(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL|CONFIG", help="A stage of a run, a model folder, or its config.json.")
    ],
    context: Annotated[int, typer.Option(min=1, help="Tokens in view, for arithmetic and cache.")] = 2048,
    as_json: Json = False,
) -> None:
    """Count parameters, arithmetic per token and cache bytes of a model, from its config alone."""
    from aha.model.count import cache_bytes_per_token, count_parameters, flops_per_token
    from aha.model.folder import load_config
    from aha.stages.generate import model_folder

    if not model.exists():
        raise CheckpointError(f"{model} does not exist")
    config = load_config(model.parent if model.name == "config.json" else model_folder(model))
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
    """Check that this machine can run: versions, cores, memory, disk, accelerator, starting a stage, the sandbox."""
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

    table = Table(*headers, box=box.SIMPLE_HEAD, show_header=any(headers))
    for column in table.columns:
        column.overflow = "fold"  # no figure is cut off where the terminal is narrow
    return table


def _print_rich(renderable: Any, *, error: bool = False) -> None:
    from rich.console import Console

    stream = sys.stderr if error else sys.stdout
    console = Console(file=stream, markup=False, highlight=False, width=None if stream.isatty() else 160)
    console.print(renderable)


@contextmanager
def _spinner(text: str) -> Iterator[None]:
    """Shows on a terminal that work goes on, and for how long."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(text, total=None)
        yield


@contextmanager
def _progress_bar(total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal with rate and remaining time; yields what is told how much is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    rate = TextColumn("{task.fields[rate]:.3g} " + unit + "/s")
    columns = (BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task, started = progress.add_task("", total=total, rate=0.0), time.monotonic()

        def advance(done: int) -> None:
            progress.update(task, completed=done, rate=done / max(time.monotonic() - started, 1e-9))

        yield advance


def _print_json(obj: dict[str, Any]) -> None:
    from aha.util.files import json_text

    print(json_text(obj))
