"""Rates, remaining time and the words for them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from aha.pipeline.display import LiveDisplay, Running, describe_running, format_seconds


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.2, "4.2s"), (59.94, "59.9s"), (185, "3m 05s"), (119.7, "2m 00s"), (7620, "2h 07m")]
)
def test_format_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_the_rate_counts_from_where_the_attempt_began() -> None:
    stage = Running("s", started=0.0)
    assert stage.rate(1.0) is None
    stage.advance(100, 400, {"loss": 2.0}, now=10.0)
    assert stage.rate(10.0) is None and stage.remaining(11.0) is None
    stage.advance(200, 400, {"reward": 0.5}, now=60.0)
    assert stage.rate(60.0) == 2.0 and stage.remaining(60.0) == 100.0
    assert describe_running(stage, 60.0) == "s  200/400 steps  2 steps/s  1m 40s left  loss 2  reward 0.5"


def test_the_live_table_shows_stages_and_what_is_said_as_it_is() -> None:
    stream = io.StringIO()
    display = LiveDisplay(Console(file=stream, force_terminal=True, width=120))
    stage = Running("r1_zero", started=0.0, step=3, total=9, fields={"reward": 0.25})
    display.say("steps [1] -> [2]")
    display.update([stage], done=1, total=12)
    display.close()
    shown = stream.getvalue()
    assert "steps [1] -> [2]" in shown and "r1_zero" in shown and "0.25" in shown and "1 of 12 stages done" in shown
