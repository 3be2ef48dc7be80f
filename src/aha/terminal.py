"""What commands print: tables, one JSON object, bars of progress."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from aha.errors import UsageError

PICTURES = (".png", ".svg", ".pdf")
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output; all else on standard error.")]


def check_picture(path: Path | None) -> None:
    """``UsageError`` for a picture whose name tells no kind, before the work that it is to show."""
    if path is not None and path.suffix.lower() not in PICTURES:
        raise UsageError(f"--picture {path}: it ends with none of {', '.join(PICTURES)}")


def shorten(text: str, length: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def table(*headers: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(*headers, box=box.SIMPLE_HEAD, show_header=any(headers))
    for column in table.columns:
        column.overflow = "fold"  # no figure is cut off where the terminal is narrow
    return table


def print_rich(renderable: Any, *, error: bool = False) -> None:
    from rich.console import Console

    stream = sys.stderr if error else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")  # in a locale of ASCII, say
    console = Console(file=stream, markup=False, highlight=False, width=None if stream.isatty() else 160)
    console.print(renderable)


@contextmanager
def spinner(text: str) -> Iterator[None]:
    """Shows on a terminal that work goes on, and for how long."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(text, total=None)
        yield


@contextmanager
def progress_bar(total: int, unit: str) -> Iterator[Callable[[int], None]]:
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


def print_json(obj: dict[str, Any]) -> None:
    from aha.util.files import json_text

    print(json_text(obj))


@contextmanager
def phases() -> Iterator[Callable[[str, int, int | None], None]]:
    """A bar a phase of the work on a terminal; yields what is told the phase, how much is done, and of how much."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    texts = TextColumn("{task.description}"), TextColumn("{task.completed:,.0f} ({task.fields[rate]:,.0f}/s)")
    columns = (*texts, BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        tasks: dict[str, tuple[Any, float]] = {}

        def advance(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total, rate=0.0), time.monotonic()
            task, began = tasks[what]
            progress.update(task, completed=done, total=total, rate=done / max(time.monotonic() - began, 1e-9))

        yield advance
