"""Why an answer is right or wrong: what was read from it, what it was compared with, and the verdict."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aha.data.problems import load_problems
from aha.errors import UsageError, nearest
from aha.records import Problem, Verdict
from aha.reward import rules
from aha.reward.response import TAGS, Response, read_response
from aha.tasks import chain, countdown, number

_ROW = re.compile(r"(?P<file>.+\.jsonl(?:\.gz)?):(?P<row>\d+)")


@dataclass(frozen=True)
class Compared:
    """One thing that was compared: ``Compared("value", "27", "25")``."""

    what: str
    found: str
    wanted: str


@dataclass(frozen=True)
class Explanation:
    """``remark`` says why nothing could be compared, where that is so. ``format`` is ``None`` for a bare answer."""

    problem: Problem
    response: Response
    remark: str
    compared: tuple[Compared, ...]
    accuracy: Verdict
    format: Verdict | None


def explain(problem: Problem, text: str) -> Explanation:
    """``text`` is a completion with tags or a bare answer."""
    bare = not any(tag in text for tag in TAGS)
    response = Response(think="", answer=text.strip() or None, well_formed=False) if bare else read_response(text)
    remark = ""
    compared: tuple[Compared, ...] = ()
    if response.answer is None:
        remark = _why_no_answer(text)
    else:
        compared = _COMPARISONS[problem.task](problem, response.answer)
        if any(row.found == _UNREADABLE for row in compared):
            remark = _UNREAD_REMARKS[problem.task]
    return Explanation(
        problem=problem,
        response=response,
        remark=remark,
        compared=compared,
        accuracy=rules.accuracy(problem, response),
        format=None if bare else rules.format_tags(problem, response),
    )


def find_problem(reference: str, *, task: str) -> Problem:
    """``FILE.jsonl:ROW`` (rows count from 1), or a problem that has ``reference`` as its gold answer to ``task``.

    The gold of a countdown is an expression that solves it: its numbers are those to use, its value is the target.
    """
    row = _ROW.fullmatch(reference)
    if row:
        problems = load_problems(Path(row["file"]))
        index = int(row["row"])
        if not 1 <= index <= len(problems):
            raise UsageError(f"{row['file']} has rows 1 to {len(problems)}, not {index}")
        problem = problems[index - 1]
        if problem.task not in _COMPARISONS:
            raise UsageError(
                f"{reference} is of task {problem.task!r}, which no rule checks: {', '.join(_COMPARISONS)}"
            )
        return problem
    if task not in _COMPARISONS:
        raise UsageError(f"--task {task}: {nearest(task, _COMPARISONS)}")
    gold = reference.strip()
    meta: dict[str, object] = {}
    if task == "countdown":
        read = countdown.value_of(gold)
        if read is None:
            raise UsageError(
                f"gold {gold!r} is no arithmetic expression, as a countdown needs: give one such as '20 + 7 - 2'"
            )
        meta = {"target": read[0], "numbers": sorted(read[1].elements(), reverse=True)}
    problem = Problem("given", "", gold, task, meta=meta)
    if not rules.accuracy(problem, Response("", gold, False)).score:
        raise UsageError(f"gold {gold!r} is not accepted by the checker of task {task!r} itself")
    return problem


_UNREADABLE = "(unreadable)"
_UNREAD_REMARKS = {
    "number": "the answer must hold exactly one number, in digits and not in a formula",
    "chain": f"the answer must be one whole number of at most {chain.MAX_DIGITS} digits and nothing else",
    "countdown": "the answer must be a plain expression of whole numbers, + - * / and brackets",
}


def _compare_number(problem: Problem, answer: str) -> tuple[Compared, ...]:
    return (Compared("number", _shown(number.parse_number(answer)), _shown(number.parse_number(problem.answer))),)


def _compare_chain(problem: Problem, answer: str) -> tuple[Compared, ...]:
    return (Compared("whole number", _shown(chain.vote_key(answer)), _shown(chain.vote_key(problem.answer))),)


def _compare_countdown(problem: Problem, answer: str) -> tuple[Compared, ...]:
    read = countdown.value_of(answer)
    value, used = (None, None) if read is None else read
    wanted = Counter(problem.meta["numbers"])
    return (
        Compared("value", _shown(value), _shown(problem.meta["target"])),
        Compared("numbers used", _UNREADABLE if used is None else _list(used), _list(wanted)),
    )


_COMPARISONS: dict[str, Callable[[Problem, str], tuple[Compared, ...]]] = {
    "number": _compare_number,
    "chain": _compare_chain,
    "countdown": _compare_countdown,
}


def _why_no_answer(text: str) -> str:
    opened, closed = text.count(TAGS[2]), text.count(TAGS[3])
    if opened == 0:
        return f"there is no {TAGS[2]}"
    if closed == 0:
        return f"{TAGS[2]} is never closed: the completion was cut, or its end forgotten"
    if opened > 1 or closed > 1:
        return f"{opened} {TAGS[2]} and {closed} {TAGS[3]}: several answers are no answer, or guesses could be listed"
    start, end = text.find(TAGS[2]) + len(TAGS[2]), text.find(TAGS[3])
    if end < start:
        return f"{TAGS[3]} comes before {TAGS[2]}"
    return "a tag stands inside the answer" if text[start:end].strip() else "the answer is empty"


def _shown(value: object) -> str:
    return _UNREADABLE if value is None else str(value)


def _list(numbers: Counter[int]) -> str:
    return " ".join(str(n) for n in sorted(numbers.elements(), reverse=True))
