"""``aha generate`` and ``aha evaluate``: what asks a model."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from aha import terminal
from aha.errors import UsageError, nearest
from aha.terminal import Json

DTYPES = ("float32", "bfloat16", "int8")

ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A stage of a run, its model folder, or any Hugging Face folder.")
]
MaxNewTokens = Annotated[
    int | None, typer.Option(min=1, help="Tokens to sample at most.", show_default="what fits, at most 1024")
]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 takes the most likely token.")]
TopP = Annotated[float, typer.Option(min=0.0, max=1.0, help="Sample from this share of the probability.")]
Dtype = Annotated[str, typer.Option(help="Type of the weights and of what is computed: float32, bfloat16 or int8.")]
Template = Annotated[
    str | None, typer.Option(help="Prompt with one {question} in it.", show_default="the model's own, or R1-Zero's")
]


def generate(
    model: ModelPath,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The question; the model's template goes around it.")],
    num: Annotated[
        int | None,
        typer.Option("--n", min=1, help="Completions to sample.", show_default="1, or 16 with --search"),
    ] = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = 0.6,
    top_p: TopP = 0.95,
    seed: Annotated[int, typer.Option(help="Completion i depends on this and i alone.")] = 0,
    template: Template = None,
    search: Annotated[
        str | None,
        typer.Option(
            help="vote, best-of-n, beam, lookahead, mcts or adaptive: one answer from N completions, or as many beams."
        ),
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
    known = ["vote", "best-of-n", "beam", "lookahead", "mcts", "adaptive"]
    if search is not None and search not in known:
        raise UsageError(f"--search {search}: {nearest(search, known)}")
    if (search in known[1:]) != (scorer is not None):
        raise UsageError(f"--search {', '.join(known[1:])} need --scorer MODEL, and nothing else takes it")
    if search is not None and num == 1:
        raise UsageError(f"--search {search} --n 1 has nothing to choose from: give --n 2 or more, or leave it out")
    num = num or (16 if search else 1)
    if scorer is not None and speculate:
        raise UsageError(f"--speculate drafts for plain samples and votes: leave it out with --search {search}")
    from aha.stages.generate import generate as sample
    from aha.stages.generate import open_model, vote

    policy, origin = open_model(model, template=template)
    print(f"template {origin}: {terminal.shorten(policy.renderer.template, 200)}", file=sys.stderr)
    if search is not None and scorer is not None:
        _search_one(policy, prompt, search, scorer, num, max_new_tokens, temperature, top_p, seed, as_json=as_json)
        return
    with terminal.spinner("sampling"):
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
        terminal.print_json(
            {"model": str(model), "prompt": answers.prompt, "completions": rows, **speed}
            | ({"vote": vars(voted)} if voted else {})
        )
        return
    for index, answer in enumerate(answers.answers):
        terminal.print_rich(_answer_panel(index, answer))
    if voted:
        terminal.print_rich(_vote_line(voted, num))
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

    with terminal.spinner("searching"):
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
        terminal.print_json({"search": name, "n": num, "chosen": chosen, "spent": asdict(spent)})
        return
    terminal.print_rich(_answer_panel(name, answer))
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


def evaluate(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL", help="As of generate, or a folder of --keep; with --compare two of either."),
    ],
    bench: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|NAME=COPY|FILE",
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
    dtype: Dtype = "float32",
    keep: Annotated[
        Path | None, typer.Option(help="Keep generations and results in this folder; continue what is there.")
    ] = None,
    trained_on: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Training data to look for benches in.", show_default="what its card names"),
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
    if all(map(is_kept, models)):  # nothing is sampled
        given = {
            "--bench": bench, "--samples": samples, "--max-new-tokens": max_new_tokens, "--limit": limit,
            "--template": template, "--seed": seed, "--temperature": temperature != 0.6, "--top-p": top_p != 0.95,
        }  # fmt: skip
        if named := [option for option, value in given.items() if value]:
            raise UsageError(f"{', '.join(named)}: what was kept is not sampled again; leave it out")
    if trained_on and (regrade or compare):
        raise UsageError("--trained-on goes with the evaluation of one model")
    check_dtype(dtype)
    if keep and (regrade or compare):
        raise UsageError("--keep goes with one model: keep each evaluation by itself, then compare the folders")
    from aha.data.files import find_files

    if out:
        _check_writable(out)  # before hours of work
    if trained_on:
        find_files(trained_on)  # likewise
    from aha.stages.assess import Sampling
    from aha.stages.assessed import compare_evaluations, evaluate_kept, evaluate_model

    how = Sampling(temperature=temperature, top_p=top_p, seed=seed)
    asked = _open_benches(bench or [], limit=limit, samples=samples, max_new_tokens=max_new_tokens)
    found = []
    for path in models:
        if is_kept(path):
            found.append(evaluate_kept(path))
            continue
        policy, origin = open_for_evaluation(path, template, dtype)
        print(f"template {origin}: {terminal.shorten(policy.renderer.template, 200)}", file=sys.stderr)
        with terminal.progress_bar(sum(len(one.problems) for one in asked), "problems") as advance:
            against = found[0] if found else None
            found.append(evaluate_model(path, policy, asked, how, keep=keep, progress=advance, against=against))
    shown = compare_evaluations(*found) if compare else found[0].result
    from aha.evaluate.contamination import contamination_lines
    from aha.report.evaluation import comparison_table, evaluation_table, save_evaluation
    from aha.util.files import read_json, write_json_atomic

    folder = keep or (models[0] if regrade else None)
    if asked and not compare:
        shown = {**shown, "contamination": _contamination(models[0], asked, trained_on)}
    elif regrade and (models[0] / "results.json").is_file():  # what no text tells stays as it was found
        earlier = read_json(models[0] / "results.json")
        shown = {**shown, **{key: earlier[key] for key in ("seconds", "contamination") if key in earlier}}
    if out and out.suffix in (".md", ".png"):
        save_evaluation(shown, out)
    elif out:
        write_json_atomic(out, shown)
    if folder:
        write_json_atomic(folder / "results.json", shown)
        save_evaluation(shown, folder / "results.md")
        save_evaluation(shown, folder / "results.png")
    if as_json:
        terminal.print_json(shown)
        return
    heads, rows = comparison_table(shown) if compare else evaluation_table(shown)
    table = terminal.table(*heads)
    for row in rows:
        table.add_row(*row)
    terminal.print_rich(table)
    if "contamination" in shown:
        for line in contamination_lines(shown["contamination"], shown["model"]):
            print(line)


def _contamination(model: Path, asked: list[Any], trained_on: list[str] | None) -> dict[str, Any] | None:
    """Leaks of the benches in the files given, or in those that the model's card names and that are still there; None
    where there is no card."""
    from aha.data.files import find_files
    from aha.data.lineage import trained_on as named_by_card
    from aha.evaluate.contamination import contamination

    files = find_files(trained_on) if trained_on else named_by_card(model)
    if files is None:
        return None
    benches = contamination({bench.name: bench.problems for bench in asked}, files) if files else {}
    return {"files": len(files), "benches": benches}


def _open_benches(names: list[str], *, limit: int | None, samples: int | None, max_new_tokens: int | None) -> list[Any]:
    from aha.evaluate.benches import open_bench

    opened = [open_bench(name, limit=limit, samples=samples, max_new_tokens=max_new_tokens) for name in names]
    for bad in (bad for one in opened for bad in one.dropped):
        print(f"left out: {bad.file}, row {bad.row}: {bad.why}", file=sys.stderr)
    return opened


def open_for_evaluation(path: Path, template: str | None, dtype: str) -> tuple[Any, str]:
    """A published model is asked by its own chat template, where its folder has one and was not made here."""
    import torch

    from aha.model.config_file import model_folder
    from aha.stages.generate import open_model
    from aha.stages.models import TEMPLATE_FILE, load_policy
    from aha.tokens.chat import chat_prompt

    folder = model_folder(path)
    chat = None if template or (folder / TEMPLATE_FILE).is_file() else chat_prompt(folder)
    type_ = getattr(torch, dtype)
    if chat:
        return load_policy(folder, template=chat, dtype=type_), "of the chat"
    return open_model(path, template=template, dtype=type_)


def check_dtype(dtype: str) -> None:
    """``UsageError`` where ``--dtype`` is none of ``DTYPES``."""
    if dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype}: {nearest(dtype, DTYPES)}")


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
