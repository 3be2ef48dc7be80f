"""Accuracy of programs: what a response would run, its tests in a sandbox, and a verdict that the program cannot forge.

A problem of task ``code`` has its tests in ``meta["tests"]``, in one of two forms:

- pairs ``{"input": ..., "output": ...}``: the program is a script; the expected output never enters the sandbox;
- statements with ``assert``: they call what the program defines, from a process of their own. ``meta["setup"]`` is run
  before them; ``meta["entry_point"]`` names the function that they call ``candidate``, or ``meta["exports"]`` the names
  of the program that they see (by default all that they use); ``meta["prefix"]`` is code that the program continues.

The reward is all or nothing unless a share is asked for: a share pays a program for the tests that are easy to guess.
"""

from __future__ import annotations

import os
import queue
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aha.errors import DataError, SandboxError
from aha.records import Problem, Status, Verdict
from aha.reward.response import Response, read_response
from aha.reward.sandbox import Limits, Minimum, Outcome, Sandbox, check_layers
from aha.tasks.programs import check_tests

TASK = "code"
TOLERANCE = 1e-6  # relative or absolute, where a number with a point or an exponent is expected
_FENCE = re.compile(r"^[ \t]*```[ \t]*(?P<language>[\w+-]*)[^\n]*\n(?P<code>.*?)^[ \t]*```", re.MULTILINE | re.DOTALL)
_FLOAT = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_DEFINITION = re.compile(r"^(?:async[ \t]+def|def|class)[ \t]+(\w+)|^(\w+)[ \t]*=(?!=)", re.MULTILINE)
_NOTE_LENGTH = 200


# --- reading a response --------------------------------------------------------------------------------------------


def extract_program(response: Response | str) -> str | None:
    """The last fenced block of the answer, one marked as Python before one that is not; else all of the answer.

    The answer of a text is what ``<answer>`` holds, else what follows ``</think>``, else the text. ``None``
    where there is none. Whether it is Python is for the sandbox to find out: a parser can be brought down by a text.
    """
    answer = response.answer or response.untagged if isinstance(response, Response) else _answer_in(response)
    if not answer.strip():
        return None
    blocks = [(match["language"].lower(), match["code"]) for match in _FENCE.finditer(answer + "\n")]
    marked = [code for language, code in blocks if language in ("python", "py", "python3")]
    return marked[-1] if marked else blocks[-1][1] if blocks else answer


def _answer_in(text: str) -> str:
    tagged = read_response(text).answer
    return tagged if tagged is not None else text.rpartition("</think>")[2]


# --- comparing output ----------------------------------------------------------------------------------------------


def find_difference(found: str, expected: str) -> str:
    """Where two outputs differ, in words; empty where they do not.

    The number of lines is compared first, or an output that stops early would agree with all that it has; blank lines
    at the end of the text do not count. Lines are compared word by word, as checkers of contests do (LiveCodeBench
    strips lines, too): how much space is around words says nothing, so a figure drawn with spaces is judged by its
    words alone. Published tests have stray spaces; what must be drawn exactly is for a problem of assertions.
    """
    ours, theirs = (text.rstrip().splitlines() for text in (found, expected))
    if len(ours) != len(theirs):
        return f"{len(ours)} lines instead of {len(theirs)}"
    for row, (line, wanted) in enumerate(zip(ours, theirs, strict=True), 1):
        words, wanted_words = line.split(), wanted.split()
        if len(words) != len(wanted_words) or not all(map(_is_same_word, words, wanted_words)):
            return f"line {row} is {_shorten(line)!r} instead of {_shorten(wanted)!r}"
    return ""


def _is_same_word(word: str, wanted: str) -> bool:
    if word == wanted:
        return True
    if wanted.lstrip("-+").isdigit() or not (_FLOAT.fullmatch(word) and _FLOAT.fullmatch(wanted)):
        return False  # a whole number is meant exactly
    value, target = float(word), float(wanted)
    return abs(value - target) <= TOLERANCE * max(1.0, abs(target))


# --- judging -------------------------------------------------------------------------------------------------------


def judge_programs(
    problems: Sequence[Problem],
    responses: Sequence[Response | str],
    *,
    partial: bool = False,
    limits: Limits | None = None,
    minimum: Minimum = "namespaces",
    workers: int | None = None,
) -> list[Verdict]:
    """Verdicts named ``accuracy``, in order. Right is when every test passes; ``partial`` scores the share of them.

    At most ``workers`` programs (one a core by default) run at a time. ``limits`` are those of one script, or of all
    statements of a problem together. ``SandboxRefused`` where the layers up to ``minimum`` are not all there,
    ``DataError`` for a problem without tests; a sandbox that fails is a verdict of status ERROR.
    """
    for problem in problems:
        check_tests(problem)
    check_layers(minimum)
    count = max(1, min(workers or os.cpu_count() or 1, len(problems)))
    idle: queue.SimpleQueue[Sandbox] = queue.SimpleQueue()
    sandboxes = [Sandbox(minimum=minimum) for _ in range(count)]
    for sandbox in sandboxes:
        idle.put(sandbox)

    def judge(pair: tuple[Problem, Response | str]) -> Verdict:
        sandbox = idle.get()
        try:
            return judge_program(sandbox, *pair, partial=partial, limits=limits)
        finally:
            idle.put(sandbox)

    try:
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(judge, zip(problems, responses, strict=True)))
    finally:
        for sandbox in sandboxes:
            sandbox.close()


def judge_program(
    sandbox: Sandbox,
    problem: Problem,
    response: Response | str,
    *,
    partial: bool = False,
    limits: Limits | None = None,
) -> Verdict:
    """The verdict on one response; as ``judge_programs``."""
    check_tests(problem)
    program = extract_program(response)
    if program is None:
        return Verdict("accuracy", Status.WRONG, 0.0, "no program: no single answer")
    tests = problem.meta["tests"]
    run = _run_pairs if isinstance(tests[0], Mapping) else _run_statements
    try:
        failures = run(sandbox, problem, program, stop=not partial, limits=limits)
    except SandboxError as error:
        return Verdict("accuracy", Status.ERROR, 0.0, str(error))
    if not failures:
        return Verdict("accuracy", Status.RIGHT, 1.0, f"{len(tests)} tests passed")
    index, what = failures[0]
    share = 1 - len(failures) / len(tests) if partial else 0.0
    return Verdict("accuracy", Status.WRONG, share, f"test {index + 1} of {len(tests)}: {what}")


def _run_pairs(
    sandbox: Sandbox, problem: Problem, program: str, *, stop: bool, limits: Limits | None
) -> list[tuple[int, str]]:
    failures = []
    for index, test in enumerate(problem.meta["tests"]):
        result = sandbox.run(program, stdin=test["input"], limits=limits)
        last_words = result.stderr.strip().splitlines()[-1:]
        if result.outcome is not Outcome.OK:
            failures.append((index, ": ".join([result.outcome, *map(_shorten, last_words)])))
        elif difference := find_difference(result.stdout, test["output"]):
            failures.append((index, difference))
        if failures and stop:
            break
    return failures


def _run_statements(
    sandbox: Sandbox, problem: Problem, program: str, *, stop: bool, limits: Limits | None
) -> list[tuple[int, str]]:
    meta, tests = problem.meta, list(problem.meta["tests"])
    result = sandbox.test(
        meta.get("prefix", "") + program,
        tests=tests,
        setup=meta.get("setup", ""),
        entry_point=meta.get("entry_point", ""),
        exports=meta.get("exports"),
        stop=stop,
        limits=limits,
    )
    return [(index, f"{what}: {_shorten(tests[index])}") for index, what in result.failures]


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _NOTE_LENGTH else line[: _NOTE_LENGTH - 1] + "…"


# --- rows of published benchmarks ----------------------------------------------------------------------------------


def humaneval_problem(row: Mapping[str, Any]) -> Problem:
    """A row of HumanEval, by the names of its authors (``prompt``, ``canonical_solution``, ``test``) or of ``aha data``
    (``problem``, ``answer``, ``tests``). A program is the prompt continued, and may define everything again."""
    prompt, entry_point = _field(row, "prompt", "problem"), _field(row, "entry_point")
    tests = [f"{_field(row, 'test', 'tests')}\n\ncheck(candidate)\n"]
    meta = {"tests": tests, "setup": prompt, "prefix": prompt, "entry_point": entry_point}
    answer = _field(row, "canonical_solution", "answer")
    return Problem(_field(row, "task_id", "id"), prompt, answer, TASK, meta=meta)


def mbpp_problem(row: Mapping[str, Any]) -> Problem:
    """A row of MBPP, by the names of its authors (``text``, ``code``, ``test_list``, ``test_setup_code``) or of ``aha
    data``. The prompt shows the tests, as its authors do: they name the function."""
    tests = row.get("test_list", row.get("tests"))
    if not isinstance(tests, list) or not tests:
        raise DataError(f"MBPP row {row.get('task_id', row.get('id'))!r}: no 'test_list'")
    text = _field(row, "text", "prompt", "problem")
    prompt = f"{text}\nYour code should pass these tests:\n" + "\n".join(tests)
    answer = _field(row, "code", "answer")
    exports = sorted(
        {a or b for a, b in _DEFINITION.findall(answer)}
    )  # tests see what the reference defines, and may call it `sum`
    meta = {"tests": tests, "setup": row.get("test_setup_code", row.get("test_setup", "")), "exports": exports}
    return Problem(_field(row, "task_id", "id"), prompt, answer, TASK, meta=meta)


def _field(row: Mapping[str, Any], *names: str) -> str:
    for name in names:
        if name in row:
            return str(row[name])
    raise DataError(f"row {row.get('task_id', row.get('id'))!r}: none of {', '.join(names)} (fields: {', '.join(row)})")
