"""What a person sees while a run goes on: a live table on a terminal, plain lines anywhere else; on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

SHOWN_FIELDS = ("reward", "accuracy", "length", "loss")
PLAIN_EVERY = 15.0
"""Seconds between two plain progress lines of a stage."""


@dataclass
class Running:
    """A stage at work as far as its runner knows; times are of the monotonic clock."""

    name: str
    started: float
    step: int = 0
    total: int = 0
    first: tuple[int, float] | None = None
    """Step and time of the first message of this attempt: the rate counts from there."""
    fields: dict[str, float] = field(default_factory=dict)

    def advance(self, step: int, total: int, fields: dict[str, float], now: float) -> None:
        """Takes in a progress message."""
        self.first = self.first or (step, now)
        self.step, self.total, self.fields = step, total, {**self.fields, **fields}

    def rate(self, now: float) -> float | None:
        """Steps a second, or None before there are two messages."""
        if self.first is None or self.step <= self.first[0] or now <= self.first[1]:
            return None
        return (self.step - self.first[0]) / (now - self.first[1])

    def remaining(self, now: float) -> float | None:
        """Seconds to the end at this rate."""
        rate = self.rate(now)
        return (self.total - self.step) / rate if rate else None


class Display(Protocol):
    """Where a runner says what happens."""

    def say(self, text: str) -> None:
        """One line for people."""

    def update(self, running: Sequence[Running], *, done: int, total: int) -> None:
        """The state of the stages at work; called several times a second."""

    def close(self) -> None:
        """The end."""


class PlainDisplay:
    """Lines, for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown: dict[str, float] = {}

    def say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def update(self, running: Sequence[Running], *, done: int, total: int) -> None:
        now = time.monotonic()
        for stage in running:
            last = max(self._shown.get(stage.name, 0.0), stage.started)
            if now - last >= PLAIN_EVERY and stage.total:
                self._shown[stage.name] = now
                self.say(describe_running(stage, now))

    def close(self) -> None:
        pass


class LiveDisplay:
    """A table that stays in place, with what was said above it."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=4, transient=True, redirect_stdout=False)
        self._started = time.monotonic()
        self._live.start()

    def say(self, text: str) -> None:
        self._live.console.print(escape(text), highlight=False)

    def update(self, running: Sequence[Running], *, done: int, total: int) -> None:
        self._live.update(_render(running, done, total, time.monotonic() - self._started))

    def close(self) -> None:
        self._live.stop()


def build_display() -> Display:
    """The live table if standard error is a terminal, else plain lines."""
    console = Console(stderr=True)
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(sys.stderr)


def format_seconds(seconds: float) -> str:
    """``4.2s``, ``3m 05s``, ``2h 07m``."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m {rest:02d}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60:02d}m"


def describe_running(stage: Running, now: float) -> str:
    """One line: ``r1_zero  120/900 steps  2.1 steps/s  6m 10s left  reward 0.41  length 62``."""
    words = [f"{stage.name}  {stage.step}/{stage.total} steps"]
    rate, remaining = stage.rate(now), stage.remaining(now)
    if rate is not None and remaining is not None:
        words.append(f"{rate:.3g} steps/s  {format_seconds(remaining)} left")
    words += [f"{key} {value:.3g}" for key, value in stage.fields.items()]
    return "  ".join(words)


def _render(running: Sequence[Running], done: int, total: int, seconds: float) -> RenderableType:
    now = time.monotonic()
    table = Table(box=None, padding=(0, 1))
    for header in ("stage", "", "step", "steps/s", "left", *SHOWN_FIELDS):
        table.add_column(header, justify="left" if header in ("stage", "") else "right", no_wrap=True)
    for stage in running:
        rate, remaining = stage.rate(now), stage.remaining(now)
        table.add_row(
            stage.name,
            ProgressBar(total=max(stage.total, 1), completed=stage.step, width=24),
            f"{stage.step}/{stage.total}" if stage.total else "",
            f"{rate:.3g}" if rate is not None else "",
            format_seconds(remaining) if remaining is not None else "",
            *(f"{stage.fields[key]:.3g}" if key in stage.fields else "" for key in SHOWN_FIELDS),
        )
    return Group(table, Text(f" {done} of {total} stages done, {format_seconds(seconds)}", style="dim"))
