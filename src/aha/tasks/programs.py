"""Programs: problems whose answer is Python, with tests in ``meta``. They run in a sandbox (reward/programs.py), never
here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aha.errors import DataError
from aha.records import Problem


def check_tests(problem: Problem) -> None:
    """``DataError`` where there is nothing to judge a program by, tests of two forms, or what is no text."""
    tests = problem.meta.get("tests")
    if not isinstance(tests, Sequence) or isinstance(tests, str) or not tests:
        raise DataError(f"problem {problem.id!r}: no tests in its meta['tests'], so no program can be judged")
    pairs = all(isinstance(t, Mapping) and {"input", "output"} <= set(t) for t in tests)
    if not pairs and not all(isinstance(t, str) and t.strip() for t in tests):
        raise DataError(
            f"problem {problem.id!r}: its tests must be all statements, or all objects with 'input' and 'output'"
        )
    texts = {part: problem.meta[part] for part in ("setup", "prefix", "entry_point") if part in problem.meta}
    if pairs:
        texts |= {f"the {part} of test {i + 1}": t[part] for i, t in enumerate(tests) for part in ("input", "output")}
    if odd := [f"{name} is {value!r:.80}" for name, value in texts.items() if not isinstance(value, str)]:
        raise DataError(f"problem {problem.id!r}: {odd[0]}, not text: write what the program reads and prints")


def is_correct(problem: Problem, answer: str) -> bool:
    """Always ``DataError``: a program that somebody else wrote is not run in this process."""
    raise DataError(f"problem {problem.id!r}: programs are judged in a sandbox, not by a checker")


def vote_key(answer: str) -> str | None:
    """Programs vote together when they are the same text but for space at line ends and blank lines."""
    lines = [line.rstrip() for line in answer.splitlines()]
    return "\n".join(line for line in lines if line) or None
