"""``aha data``: from raw files to a set that a run can use, one thin function a command."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from aha.errors import UsageError, nearest
from aha.terminal import Json, check_picture, phases, print_json, print_rich, shorten, table

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make data sets: each command reads files of any format and writes a folder with a card of what it did.",
)


class Form(StrEnum):
    """How the parts of a data set are written."""

    JSONL = "jsonl"
    GZIP = "jsonl.gz"
    ZSTD = "jsonl.zst"
    PARQUET = "parquet"


class Strength(StrEnum):
    """How decontamination compares."""

    NGRAM = "ngram"
    LIGHT = "light"
    FUZZY = "fuzzy"


Sources = Annotated[
    list[str],
    typer.Argument(metavar="SRC...", help="Files, folders or quoted globs: .jsonl .json .csv .tsv .parquet, .gz .zst."),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write; run again, it continues.")]
FormOption = Annotated[Form, typer.Option("--format", help="Of the parts written.")]
ShardRows = Annotated[int, typer.Option(min=1, help="Rows read for one part; also what is held in memory.")]


@app.command()
def dedup(
    sources: Sources,
    out: Out,
    threshold: Annotated[
        float, typer.Option(min=0.05, max=1.0, help="Jaccard similarity of three-word runs; 1: equal questions alone.")
    ] = 0.7,
    ignore_digits: Annotated[
        bool, typer.Option("--ignore-digits", help="The same problem with other numbers is a duplicate too.")
    ] = False,
    answers: Annotated[bool, typer.Option("--answers", help="Equal questions with other answers stay.")] = False,
    form: FormOption = Form.JSONL,
    shard_rows: ShardRows = 50_000,
    as_json: Json = False,
) -> None:
    """Remove equal questions, and nearly equal ones with the same numbers and answer; the first stays.

    Example: aha data dedup gsm8k.jsonl 'math/*.parquet' --out union
    """
    from aha.data.dedup import Dedup

    step = Dedup(threshold=threshold, digits="ignored" if ignore_digits else "kept", answers=answers)
    _build(step, sources, out, form, shard_rows, as_json=as_json)


@app.command()
def decontaminate(
    sources: Sources,
    out: Out,
    against: Annotated[list[str], typer.Option(metavar="FILE", help="A benchmark's file or folder; repeatable.")],
    strength: Annotated[
        Strength,
        typer.Option(help="ngram: a shared run of words; light: 32 words, or equal but for digits; fuzzy: 95 of 100."),
    ] = Strength.NGRAM,
    words: Annotated[int, typer.Option(min=2, help="Words of a run, for ngram: Open-R1 and s1 have 8.")] = 8,
    form: FormOption = Form.JSONL,
    shard_rows: ShardRows = 50_000,
    as_json: Json = False,
) -> None:
    """Remove questions that a benchmark asks too.

    Example: aha data decontaminate union --against math500.jsonl --against aime.jsonl --out clean
    """
    from aha.data.decontaminate import Decontaminate

    step = Decontaminate(against, strength.value, words)
    _build(step, sources, out, form, shard_rows, as_json=as_json)


@app.command()
def lineage(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A data set, a run, a stage of it, or a model folder.")],
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Count the leaks of this benchmark at every step; repeatable."),
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the graph: .png, .svg or .pdf.")] = None,
    as_json: Json = False,
) -> None:
    """Show where a data set or a model comes from, down to the files it was first made of.

    Example: aha data lineage runs/distill_tiny --picture lineage.png
    """
    check_picture(picture)
    from dataclasses import asdict

    from rich.text import Text
    from rich.tree import Tree

    from aha.data.card import lineage_lines, read_card
    from aha.data.lineage import count_leaks, nodes_of

    nodes = nodes_of(folder)
    leaks = count_leaks(nodes, against) if against else {}
    if picture is not None:
        from aha.report.lineage import save_lineage

        save_lineage(nodes, picture, leaks)
    is_data = nodes[-1].name == str(folder)
    if as_json:
        found: dict[str, Any] = {"folder": str(folder), "nodes": [asdict(node) for node in nodes]}
        if is_data:
            found["card"] = read_card(folder)
        print_json(found | ({"leaks": leaks} if against else {}))
        return
    if is_data:
        branches: list[Any] = []
        for depth, line in lineage_lines(read_card(folder), str(folder)):
            branch = Tree(Text(line)) if not branches else branches[depth - 1].add(Text(line))
            branches[depth:] = [branch]
        print_rich(branches[0])
    else:
        rows = table("what", "kind", "made", "from")
        for node in nodes:
            rows.add_row(node.name, node.kind, node.note, ", ".join(node.parents))
        print_rich(rows)
    if against:
        rows = table("questions that a benchmark asks too", "rows")
        for name, number in leaks.items():
            rows.add_row(name, f"{number:,}")
        print_rich(rows)


def _build(step: Any, sources: list[str], out: Path, form: Form, shard_rows: int, *, as_json: bool) -> None:
    from aha.data.dataset import Output, build

    with phases() as progress:
        card = build(step, sources, Output(out, form.value, shard_rows), progress)
    _conclude(out, card, as_json=as_json)


def _conclude(out: Path, card: Any, *, as_json: bool) -> None:
    if as_json:
        print_json({"folder": str(out), "counts": card["counts"], "samples": card["samples"]})
        return
    counts = card["counts"]
    rows = table("", "rows", "such as")
    rows.add_row("in", f"{counts['in']:,}", "")
    for reason, number in counts["removed"].items():
        sample = card["samples"][reason][0]
        rows.add_row(reason, f"{number:,}", shorten(f"{sample['row']} {sample['problem']} {sample['detail']}", 100))
    rows.add_row("rejected", f"{counts['rejected']:,}", f"{out / 'rejected.jsonl'}" if counts["rejected"] else "")
    rows.add_row("kept", f"{counts['kept']:,}", str(out))
    print_rich(rows)


@app.command("filter")
def filter_rows(
    sources: Sources,
    out: Out,
    language: Annotated[list[str] | None, typer.Option(help="Keep questions in it (repeatable): en, zh.")] = None,
    share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Words of the thinking that must be in the question's language.")
    ] = 1.0,
    paragraph: Annotated[int, typer.Option(min=1, help="Words of the longest paragraph of a thinking.")] = 500,
    longest: Annotated[
        int | None, typer.Option(min=1, help="Words of the longest completion.", show_default="any")
    ] = None,
    code: Annotated[bool, typer.Option("--code", help="Code blocks may stand in the thinking.")] = False,
    form: FormOption = Form.JSONL,
    shard_rows: ShardRows = 50_000,
    as_json: Json = False,
) -> None:
    """Remove what DeepSeek-R1 finds unreadable: mixed languages, long paragraphs and code blocks in the thinking.

    Example: aha data filter samples --language en --longest 16000 --out readable
    """
    from aha.reward.readability import Readable

    step = Readable(tuple(language or ()), share, paragraph, longest, code)
    _build(step, sources, out, form, shard_rows, as_json=as_json)


@app.command()
def verify(
    sources: Sources,
    out: Out,
    task: Annotated[str, typer.Option(help="The checker of rows that name none: number, math, choice...")] = "number",
    form: FormOption = Form.JSONL,
    shard_rows: ShardRows = 50_000,
    as_json: Json = False,
) -> None:
    """Remove rows whose completion is wrong by the verifier, or whose own answer it does not accept.

    Example: aha data verify samples --task math --out right
    """
    from aha.reward.verification import Verify
    from aha.tasks.checkers import CHECKERS

    if task not in CHECKERS:
        raise UsageError(f"--task {task}: {nearest(task, CHECKERS)}")
    _build(Verify(task), sources, out, form, shard_rows, as_json=as_json)


@app.command()
def difficulty(
    sources: Sources,
    out: Out,
    model: Annotated[Path, typer.Option(help="A stage of a run, its model folder, or any Hugging Face folder.")],
    samples: Annotated[int, typer.Option(min=1, help="Completions of each problem.")] = 8,
    low: Annotated[float, typer.Option(min=0.0, max=1.0, help="Least pass rate to keep.")] = 0.0,
    high: Annotated[float, typer.Option(min=0.0, max=1.0, help="Highest pass rate to keep.")] = 1.0,
    task: Annotated[str, typer.Option(help="The checker of rows that name none: number, math, choice...")] = "number",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to sample at most.")] = 1_024,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of the sampling.")] = 1.0,
    template: Annotated[
        str | None, typer.Option(help="Prompt with one {question} in it.", show_default="the model's own, or R1-Zero's")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another gives other samples.")] = 0,
    form: FormOption = Form.JSONL,
    shard_rows: ShardRows = 50_000,
    as_json: Json = False,
) -> None:
    """Give each row the share of a model's samples that are right, and keep a window of it.

    Example: aha data difficulty clean --model runs/r1_tiny/base --low 0.1 --high 0.6 --out learnable
    """
    from aha.stages.difficulty import Difficulty
    from aha.tasks.checkers import CHECKERS

    if low > high:
        raise UsageError(f"--low {low} is over --high {high}: no pass rate is between them")
    if task not in CHECKERS:
        raise UsageError(f"--task {task}: {nearest(task, CHECKERS)}")
    step = Difficulty(
        model,
        samples,
        low,
        high,
        task,
        template=template,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    )
    _build(step, sources, out, form, shard_rows, as_json=as_json)


@app.command()
def reject(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A file or folder of problems with answers.")],
    out: Out,
    model: Annotated[Path | None, typer.Option(help="The teacher: a stage of a run or a Hugging Face folder.")] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Or an OpenAI-style endpoint, such as http://127.0.0.1:8000/v1.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The endpoint's name of the model.")] = None,
    prompt: Annotated[str, typer.Option(help="What the endpoint is asked, with {question} in it.")] = "{question}",
    per_minute: Annotated[float | None, typer.Option(help="Requests a minute.", show_default="no limit")] = None,
    at_once: Annotated[int, typer.Option(min=1, help="Requests under way at a time.")] = 8,
    price: Annotated[
        str | None, typer.Option(metavar="IN,OUT", help="Of a million tokens, for the account.", show_default="0,0")
    ] = None,
    most_cost: Annotated[float | None, typer.Option(help="Stop when so much is spent.", show_default="any")] = None,
    judge: Annotated[
        str | None, typer.Option(metavar="NAME", help="Model of the endpoint that judges what no rule can.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Completions of each problem.")] = 4,
    one: Annotated[bool, typer.Option("--one", help="Keep one right completion of a problem, not all.")] = False,
    untagged: Annotated[bool, typer.Option("--untagged", help="Completions without tags may stay.")] = False,
    task: Annotated[str, typer.Option(help="The checker of rows that name none: number, math, choice...")] = "number",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to sample at most.")] = 8_192,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of the sampling.")] = 0.6,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the probability.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Another gives other samples.")] = 0,
    as_json: Json = False,
) -> None:
    """Ask a teacher several times and keep what is right and readable; run again, it asks for what is missing alone.

    The key of an endpoint is read from OPENAI_API_KEY.

    Example: aha data reject clean --endpoint http://127.0.0.1:8000/v1 --name r1 --samples 4 --out distilled
    """
    if (model is None) == (endpoint is None):
        raise UsageError("the teacher is either --model or --endpoint: give one of them")
    if endpoint is not None and name is None:
        raise UsageError("--endpoint needs --name, what it calls its model")
    if judge is not None and endpoint is None:
        raise UsageError("--judge is a model of the --endpoint: give that too")
    from aha.rollout.endpoint import Endpoint
    from aha.stages.reject import Settings
    from aha.stages.teach import teach

    price_in, price_out = _prices(price)
    asked = None
    if endpoint is not None and name is not None:
        asked = Endpoint(
            url=endpoint,
            model=name,
            prompt=prompt,
            at_once=at_once,
            per_minute=per_minute,
            price_in=price_in,
            price_out=price_out,
            most_cost=most_cost,
        )
    settings = Settings(
        source=Path(source),
        task=task,
        samples=samples,
        keep="one" if one else "all",
        endpoint=asked,
        judge=asked.model_copy(update={"model": judge, "prompt": "{question}"}) if asked and judge else None,
        well_formed=not untagged,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
    )
    with phases() as progress:
        metrics = teach(settings, model, out, seed, progress)
    if as_json:
        print_json({"folder": str(out), **metrics})
        return
    rows = table("", "samples")
    for reason, number in (("asked", metrics["samples"]), *metrics["removed"].items(), ("kept", metrics["examples"])):
        rows.add_row(reason, f"{number:,}")
    print_rich(rows)
    for who, paid in metrics["account"].items():
        print(f"{who}: " + ", ".join(f"{value:,.6g} {key.replace('_', ' ')}" for key, value in paid.items()))


def _prices(text: str | None) -> tuple[float, float]:
    try:
        price_in, price_out = map(float, text.split(",")) if text else (0.0, 0.0)
    except ValueError:
        raise UsageError(f"--price {text}: give two numbers, such as 0.55,2.19") from None
    return price_in, price_out


@app.command()
def select(
    sources: Sources,
    out: Out,
    count: Annotated[int, typer.Option(min=1, help="Rows to keep.")],
    by: Annotated[str, typer.Option(help="The field that tells the domain.")] = "subject",
    power: Annotated[float, typer.Option(min=0.0, help="Chance in proportion to length to this power.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Another gives another selection.")] = 0,
    form: FormOption = Form.JSONL,
    shard_rows: ShardRows = 50_000,
    as_json: Json = False,
) -> None:
    """Select few rows that cover much: a domain at random, in it a long one, and again, as s1K was.

    Example: aha data select hard --count 1000 --out s1k
    """
    from aha.data.compose import Select

    _build(Select(count, by, power, seed), sources, out, form, shard_rows, as_json=as_json)


@app.command()
def split(
    sources: Sources,
    out: Out,
    test: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the questions that is held out.")] = 0.1,
    form: FormOption = Form.JSONL,
    shard_rows: ShardRows = 50_000,
    as_json: Json = False,
) -> None:
    """Split into DIR/train and DIR/test by a hash of the question: no row changes sides when others come.

    Example: aha data split clean --out parts
    """
    from aha.data.compose import Split
    from aha.data.dataset import Output, build

    with phases() as progress:
        cards = {
            side: build(Split(side, test), sources, Output(out / side, form.value, shard_rows), progress)
            for side in ("train", "test")
        }
    kept = {side: card["counts"]["kept"] for side, card in cards.items()}
    rejected = cards["train"]["counts"]["rejected"]
    if as_json:
        print_json({"folder": str(out), "kept": kept, "rejected": rejected})
        return
    rows = table("", "rows")
    for side, number in (*kept.items(), ("rejected", rejected)):
        rows.add_row(side, f"{number:,}")
    print_rich(rows)


@app.command()
def mix(
    sources: Annotated[
        list[str], typer.Argument(metavar="SRC=WEIGHT...", help="A file, folder or quoted glob, and what it weighs.")
    ],
    out: Out,
    total: Annotated[
        int | None, typer.Option(min=1, help="Rows of the mix.", show_default="what the scarcest source allows")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Above 1 evens the weights out: weight ** (1 / T).")] = 1.0,
    seed: Annotated[int, typer.Option(help="Another gives other rows in another order.")] = 0,
    form: FormOption = Form.JSONL,
    shard_rows: ShardRows = 50_000,
    as_json: Json = False,
) -> None:
    """Mix sources by weight, shuffled, no row twice.

    Example: aha data mix math=3 code=1 general=1 --total 100000 --out mixed
    """
    from aha.data.compose import build_mix
    from aha.data.dataset import Output

    weights: dict[str, float] = {}
    for source in sources:
        name, _, weight = source.rpartition("=")
        if name in weights:
            raise UsageError(f"{name} has two weights: name it once")
        try:
            weights[name] = float(weight)
        except ValueError:
            raise UsageError(f"{source}: give SRC=WEIGHT, such as {source}=1") from None
    output = Output(out, form.value, shard_rows)
    with phases() as progress:
        card = build_mix(weights, output, progress, total=total, temperature=temperature, seed=seed)
    by_source = {file: row["kept"] for file, row in card["by_source"].items()}
    if as_json:
        print_json({"folder": str(out), "counts": card["counts"], "by_source": by_source})
        return
    rows = table("source", "rows")
    for file, number in by_source.items():
        rows.add_row(file, f"{number:,}")
    rows.add_row("all", f"{card['counts']['kept']:,}")
    print_rich(rows)


@app.command()
def stats(
    sources: Sources,
    picture: Annotated[Path | None, typer.Option(help="Draw them: .png, .svg or .pdf.")] = None,
    as_json: Json = False,
) -> None:
    """Show lengths, domains, tasks, languages and pass rates of any files.

    Example: aha data stats clean 'math/*.jsonl' --picture stats.png
    """
    check_picture(picture)
    from aha.data.stats import QUANTILES, compute_stats

    found = compute_stats(sources)
    if picture is not None:
        from aha.report.lineage import save_stats

        save_stats(found, picture)
    if as_json:
        print_json(found)
        return
    heading = f"words ({found['rows']:,} rows, {found['rejected']:,} rejected)"
    lengths = table(heading, "mean", *map("{} %".format, QUANTILES))
    for name, row in found["lengths"].items():
        lengths.add_row(name, f"{row['mean']:,.1f}", *(f"{value:,.0f}" for value in row["quantiles"].values()))
    print_rich(lengths)
    for name, counts in found["groups"].items():
        rows = table(name, "rows", "")
        most = max(counts.values())
        for value, number in counts.items():
            rows.add_row(shorten(value, 40), f"{number:,}", "█" * max(1, round(40 * number / most)))
        print_rich(rows)
    if found["pass_rates"]:
        rows = table("pass rate", "rows")
        for place, number in enumerate(found["pass_rates"]):
            rows.add_row(f"{place / 10:.1f} to {(place + 1) / 10:.1f}", f"{number:,}")
        print_rich(rows)
