"""What a worker process of the tests is made to do; imported there by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any


def do(what: str, argument: Any = None) -> Any:
    if what == "sleep":
        time.sleep(argument)
    elif what == "spin":
        while True:
            pass
    elif what == "signal":
        os.kill(os.getpid(), argument)
    elif what == "signal once":  # the first process that gets this job dies of it
        mark, number = argument
        if not Path(mark).exists():
            Path(mark).touch()
            os.kill(os.getpid(), number)
    elif what == "allocate":
        return len(bytearray(argument))
    elif what == "exit":
        raise SystemExit(argument)
    elif what == "print":
        print(argument, flush=True)
    elif what == "alarm":
        return signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
    elif what == "pid":
        return os.getpid()
    return argument


def compare(gold: str, answer: str, show: bool) -> dict[str, Any]:
    """Stands for ``aha.tasks.symbolic:compare``: hangs, crashes or is killed where the text says so."""
    for text in {gold, answer}:
        if "hang" in text:
            time.sleep(60)
        if "crash" in text:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "kill" in text:
            os.kill(os.getpid(), signal.SIGKILL)
        if "raise" in text:
            raise ValueError("no such thing")
    return {"read": [True, True], "equal": gold == answer}


def score(family: str, entry: str, answer: str) -> float:
    """Stands for ``aha.tasks.gym_scores:compute_score``."""
    return float(compare("7", answer, False)["equal"])
