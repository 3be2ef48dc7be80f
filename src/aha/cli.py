"""The command line: one thin function a command. Heavy imports stand inside, after parsing, so that help is instant."""

from __future__ import annotations

import errno
import inspect as introspect
import json
import os
import shlex
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from aha import __version__
from aha.cli_data import app as data_app
from aha.errors import AhaError, DataError, StageFailed, UsageError, nearest
from aha.terminal import Json
from aha.terminal import print_json as _print_json
from aha.terminal import print_rich as _print_rich
from aha.terminal import progress_bar as _progress_bar
from aha.terminal import shorten as _shorten
from aha.terminal import spinner as _spinner
from aha.terminal import table as _table

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
    speculate: Annotated[
        int, typer.Option(min=0, help="Tokens a step that the model's own modules draft: faster, same distribution.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Ask a model: its thinking and its answer, apart."""
    known = ["vote", "best-of-n", "beam", "lookahead", "mcts"]
    if search is not None and search not in known:
        raise UsageError(f"--search {search}: {nearest(search, known)}")
    if (search in known[1:]) != (scorer is not None):
        raise UsageError("--search best-of-n, beam, lookahead and mcts need --scorer MODEL, and nothing else takes it")
    if scorer is not None and speculate:
        raise UsageError(f"--speculate drafts for plain samples and votes: leave it out with --search {search}")
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
            speculate=speculate,
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
        speed: dict[str, Any] = {"seconds": answers.seconds, "tokens_per_second": answers.tokens_per_second}
        if answers.speculation:
            speed["drafts"] = {
                "drafted": answers.speculation.drafted,
                "accepted": sum(answers.speculation.accepted),
                "tokens_per_step": answers.speculation.tokens_per_step,
            }
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
    if answers.speculation:
        share, growth = answers.speculation.acceptance, answers.speculation.tokens_per_step
        print(f"{share:.0%} of the drafts kept, {growth:.2f} tokens a step", file=sys.stderr)


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
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL", help="As of generate, or a folder of --keep; with --compare two of either."),
    ],
    bench: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|NAME=COPY|FILE.jsonl",
            help="chain, countdown, arithmetic, gym:FAMILY, a published benchmark's copy (math500=FILE, folder or hub "
            "name), or a file of problems; repeatable.",
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Completions of each problem.", show_default="as published, else 16")
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens to sample at most.", show_default="what fits, to 1024; published to 32768"),
    ] = None,
    temperature: Temperature = 0.6,
    top_p: TopP = 0.95,
    limit: Annotated[int | None, typer.Option(min=1, help="Problems of each bench.", show_default="all")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampling; the benches stay the same.")] = 0,
    template: Annotated[
        str | None,
        typer.Option(
            help="Prompt with one {question} in it.", show_default="the model's own, its chat template's, or R1-Zero's"
        ),
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Keep generations and results in this folder; continue what is there.")
    ] = None,
    regrade: Annotated[bool, typer.Option("--regrade", help="Grade a folder of --keep again, without model.")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="Is the second better than the first?")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the result here too: .md a table, .png a picture, else JSON.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a model on benches, or compare two: pass@1, cons@k, pass@k with 95 % intervals, and what is beside."""
    from aha.evaluate.generations import is_kept

    if len(models) != (2 if compare else 1):
        raise UsageError(f"{len(models)} models: --compare takes two, an evaluation without it takes one")
    if regrade and (bench or compare):
        raise UsageError("--regrade takes a folder of --keep alone, without --bench or --compare")
    for path in models:
        if regrade and not is_kept(path):
            raise UsageError(f"{path} holds no generations to grade: 'aha evaluate MODEL --keep {path}' makes them")
        if is_kept(path) and not (regrade or compare):
            raise UsageError(f"{path} is a folder of --keep: --regrade grades it again, --compare compares it")
        if not is_kept(path) and not bench:
            raise UsageError(f"{path} is to be evaluated: give --bench")
    if keep and (regrade or compare):
        raise UsageError("--keep goes with one model: keep each evaluation by itself, then compare the folders")
    if out:
        _check_writable(out)  # before hours of work
    from aha.stages.assess import Sampling
    from aha.stages.assessed import compare_evaluations, evaluate_kept, evaluate_model

    how = Sampling(temperature=temperature, top_p=top_p, seed=seed)
    asked = _open_benches(bench or [], limit=limit, samples=samples, max_new_tokens=max_new_tokens)
    found = []
    for path in models:
        if is_kept(path):
            found.append(evaluate_kept(path))
            continue
        policy, origin = _open_for_evaluation(path, template)
        print(f"template {origin}: {_shorten(policy.renderer.template, 200)}", file=sys.stderr)
        with _progress_bar(sum(len(one.problems) for one in asked), "problems") as advance:
            found.append(evaluate_model(path, policy, asked, how, keep=keep, progress=advance))
    shown = compare_evaluations(*found) if compare else found[0].result
    from aha.report.evaluation import comparison_table, evaluation_table, save_evaluation
    from aha.util.files import write_json_atomic

    folder = keep or (models[0] if regrade else None)
    for file in [out] if out else []:
        if file.suffix in (".md", ".png"):
            save_evaluation(shown, file)
        else:
            write_json_atomic(file, shown)
    if folder:
        write_json_atomic(folder / "results.json", shown)
        save_evaluation(shown, folder / "results.md")
        save_evaluation(shown, folder / "results.png")
    if as_json:
        _print_json(shown)
        return
    heads, rows = comparison_table(shown) if compare else evaluation_table(shown)
    table = _table(*heads)
    for row in rows:
        table.add_row(*row)
    _print_rich(table)


def _open_benches(names: list[str], *, limit: int | None, samples: int | None, max_new_tokens: int | None) -> list[Any]:
    from aha.evaluate.benches import open_bench

    opened = [open_bench(name, limit=limit, samples=samples, max_new_tokens=max_new_tokens) for name in names]
    for bad in (bad for one in opened for bad in one.dropped):
        print(f"left out: {bad.file}, row {bad.row}: {bad.why}", file=sys.stderr)
    return opened


def _open_for_evaluation(path: Path, template: str | None) -> tuple[Any, str]:
    """A published model is asked by its own chat template, where its folder has one and was not made here."""
    from aha.model.config_file import model_folder
    from aha.stages.generate import open_model
    from aha.stages.models import TEMPLATE_FILE, load_policy
    from aha.tokens.chat import chat_prompt

    folder = model_folder(path)
    chat = None if template or (folder / TEMPLATE_FILE).is_file() else chat_prompt(folder)
    return (load_policy(folder, template=chat), "of the chat") if chat else open_model(path, template=template)


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
        str,
        typer.Argument(metavar="NAME", help="File of benchmarks/: mtp, pipeline, rollout, search, train or verdicts."),
    ],
    model: Annotated[
        Path | None, typer.Argument(metavar="[MODEL]", help="search: the model that is searched with.")
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Timed runs of each side, in turn; medians are shown.")] = 3,
    peers: Annotated[bool, typer.Option(help="Measure transformers and TRL in the same run.")] = True,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16, on both sides.")] = "float32",
    skew: Annotated[bool, typer.Option("--skew", help="Lengths from 16 to 256 instead of 128 for all.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads of both sides.")] = 1,
    ranks: Annotated[
        int | None, typer.Option(min=1, help="pipeline: ranks (DualPipeV: half as many).", show_default="8")
    ] = None,
    micro_batches: Annotated[
        int | None, typer.Option(min=1, help="pipeline: micro-batches (DualPipeV: half as many).", show_default="20")
    ] = None,
    costs: Annotated[
        str | None,
        typer.Option(
            metavar="F,I,W,PAIR",
            help="pipeline: times of forward, input gradient, weights' gradient, overlapped forward and backward.",
            show_default="1,1,1,2",
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            help="pipeline: where the timelines are drawn; search: accuracy against tokens.",
            show_default="pipeline.png, or no picture",
        ),
    ] = None,
    scorer: Annotated[
        Path | None, typer.Option(help="search: a process reward model, for the searches that judge.")
    ] = None,
    problems: Annotated[
        str | None, typer.Option("--bench", help="search: problems, as 'aha evaluate' takes.", show_default="chain")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="search: problems to ask.", show_default="all")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="search: tokens of an answer.", show_default="what fits, at most 1024")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="search: that of the sampling.", show_default="0.6")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="search: share of the probability.", show_default="0.95")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="search: that of the sampling.", show_default="0")] = None,
    as_json: Json = False,
) -> None:
    """Measure speed side by side with the peers, in one run; accuracy against tokens; pipeline schedules, simulated."""
    if dtype not in ("float32", "bfloat16"):
        raise UsageError(f"--dtype {dtype}: {nearest(dtype, ['float32', 'bfloat16'])}")
    from aha.util.benchmarks import load_benchmark

    os.environ["OMP_NUM_THREADS"] = str(threads)  # read when torch is imported
    measure = load_benchmark(name)
    takes = introspect.signature(measure).parameters
    given = {
        "ranks": ranks, "micro_batches": micro_batches, "costs": costs, "picture": picture, "model": model,
        "scorer": scorer, "bench": problems, "limit": limit, "max_new_tokens": max_new_tokens,
        "temperature": temperature, "top_p": top_p, "seed": seed,
    }  # fmt: skip
    options: dict[str, Any] = {option: value for option, value in given.items() if value is not None}
    unknown = ["MODEL" if o == "model" else f"--{o.replace('_', '-')}" for o in options if o not in takes]
    if unknown:
        raise UsageError(f"the benchmark {name} has no {', '.join(unknown)}")
    if "model" in takes and model is None:
        raise UsageError(f"the benchmark {name} needs a model: aha bench {name} MODEL")
    speed = {"repeat": repeat, "peers": peers, "dtype": dtype, "skew": skew, "threads": threads}
    options |= {option: value for option, value in speed.items() if option in takes}
    with redirect_stdout(sys.stderr):  # peers print as they please
        found = measure(**options)
    if as_json:
        _print_json(found)
        return
    if "compute_optimal" in found:
        _show_scaling(found)
    else:
        (_show_speeds if "median" in found["rows"][0] else _show_rows)(found["rows"])
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


def _show_speeds(rows: list[dict[str, Any]]) -> None:
    table = _table("measured", "median", "least", "most", "unit", "peak MiB")
    for row in rows:
        memory = row["peak_rss_mib"]
        cells = [f"{row[key]:,.2f}" if row[key] < 100 else f"{row[key]:,.0f}" for key in ("median", "low", "high")]
        table.add_row(row["name"], *cells, row["unit"], f"{memory:,.0f}" if memory else "")
    _print_rich(table)


def _show_rows(rows: list[dict[str, Any]]) -> None:
    table = _table(*(key.replace("_", " ") for key in rows[0]))
    for row in rows:
        cells = [value if isinstance(value, list) else [value] for value in row.values()]
        table.add_row(*(" ".join(f"{x:g}" if isinstance(x, float) else str(x) for x in cell) for cell in cells))
    _print_rich(table)


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
    from aha.stages.models import TEMPLATE_FILE

    convert_folder(source, target, dtype=dtype, shard_bytes=shard_bytes)
    beside = ("tokenizer", "special_tokens", "generation_config", "chat_template", "vocab", "merges", "added_tokens")
    for file in source.iterdir():
        if file.is_file() and file.name.startswith((*beside, TEMPLATE_FILE)):
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
        _print_json({"model": model, **figures})
        return
    table = _table("", "")
    for key, figure in figures.items():
        table.add_row(key.replace("_", " "), f"{figure:,.0f}" if isinstance(figure, int | float) else str(figure))
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
