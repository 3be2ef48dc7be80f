"""Why an answer is right or wrong: what was read from it, what it was compared with, and the verdict."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aha.data.files import FORMATS, format_of
from aha.data.problems import SLOW_TASKS, load_problems
from aha.errors import UsageError, nearest
from aha.records import Problem, Status, Verdict
from aha.reward import rules
from aha.reward.extraction import Found, find_answer
from aha.reward.response import TAGS, Response, read_response
from aha.tasks import chain, choice, countdown, exact, formula, knights_knaves, mathematics, number

_FILE = re.compile(r"(?P<file>.+):(?P<row>[^:/\s]*)")
_NAME = re.compile(r"\S+\.[A-Za-z]\w*")


@dataclass(frozen=True)
class Compared:
    """One thing that was compared: ``Compared("value", "27", "25")``."""

    what: str
    found: str
    wanted: str


@dataclass(frozen=True)
class Explanation:
    """``answer`` is what was judged and the rule that found it; ``remark`` says why nothing could be compared, or why
    an answer that was read is wrong, where that is known. ``format`` is ``None`` for a bare answer."""

    problem: Problem
    response: Response
    answer: Found | None
    remark: str
    compared: tuple[Compared, ...]
    accuracy: Verdict
    format: Verdict | None


def explain(problem: Problem, text: str) -> Explanation:
    """``text`` is a completion with tags or a bare answer."""
    bare = not any(tag in text for tag in TAGS)
    response = _read_bare(problem, text) if bare else read_response(text)
    answer = find_answer(problem, response)
    if bare and answer and response.answer:
        answer = Found(answer.text, answer.rule.replace("answer tag", "text"))
    accuracy = rules.accuracy(problem, response)
    remark = ""
    compared: tuple[Compared, ...] = ()
    if answer is None:
        remark = _why_no_answer(text)
    else:
        compared = _COMPARISONS[problem.task](problem, answer.text)
        if any(row.found == _UNREADABLE for row in compared):
            remark = _UNREAD_REMARKS.get(problem.task, "")
        if problem.task in SLOW_TASKS and accuracy.status is not Status.RIGHT:
            remark = accuracy.note
    return Explanation(
        problem=problem,
        response=response,
        answer=answer,
        remark=remark,
        compared=compared,
        accuracy=accuracy,
        format=None if bare else rules.format_tags(problem, response),
    )


def _read_bare(problem: Problem, text: str) -> Response:
    """A text without tags: what a box in it or "the answer is" says, where the task looks for that, else all of it."""
    untagged = Response("", None, False, untagged=text.strip())
    if find_answer(problem, untagged):
        return untagged
    return Response("", text.strip() or None, False)


def find_problem(reference: str, *, task: str) -> Problem:
    """``FILE:ROW`` (rows count from 1), or a problem that has ``reference`` as its gold answer to ``task``.

    The gold of a countdown is an expression that solves it: its numbers are those to use, its value is the target.
    """
    row = _FILE.fullmatch(reference)
    path = Path(row["file"]) if row else Path()
    guessed = row and row["row"].isdecimal() and _NAME.fullmatch(row["file"])
    if row and (format_of(path) or guessed or _exists(path)):
        if not (format_of(path) or path.is_dir()) or not row["row"].isdecimal():
            raise UsageError(f"{reference}: give FILE:ROW, a file of problems ({', '.join(FORMATS)}) and a row from 1")
        problems = load_problems(path)
        index = int(row["row"])
        if not 1 <= index <= len(problems):
            raise UsageError(f"{row['file']} has rows 1 to {len(problems)}, not {index}")
        problem = problems[index - 1]
        if problem.task not in _COMPARISONS:
            raise UsageError(
                f"{reference} is of task {problem.task!r}, which no rule checks: {', '.join(_COMPARISONS)}"
            )
        return problem
    if task == "code":
        raise UsageError("--task code: programs are judged by running them: 'aha data verify' does that")
    if task not in _COMPARISONS:
        raise UsageError(f"--task {task}: {nearest(task, _COMPARISONS)}")
    gold = reference.strip()
    if task == "reasoning_gym":
        raise UsageError("a problem of reasoning-gym is more than its gold: give FILE:ROW")
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


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a gold may be longer than any name
        return False


_UNREADABLE = "(unreadable)"
_UNREAD_REMARKS = {
    "number": "the answer must hold exactly one number, in digits and not in a formula",
    "chain": f"the answer must be one whole number of at most {chain.MAX_DIGITS} digits and nothing else",
    "countdown": "the answer must be a plain expression of whole numbers, + - * / and brackets",
    "choice": "the answer must name exactly one letter from A to J",
    "knights_knaves": "the answer must say of everybody once 'NAME is a knight' or 'NAME is a knave'",
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


def _compare_math(problem: Problem, answer: str) -> tuple[Compared, ...]:
    found, wanted = formula.clean(answer), formula.clean(problem.answer)
    gold_read, answer_read = mathematics.what_was_read(wanted, wanted if formula.refuse(found) else found)
    if formula.refuse(found):
        answer_read = ""
    return (
        Compared("formula", found[:200], wanted),
        Compared("read as", _shown(answer_read or None), _shown(gold_read or None)),
    )


def _compare_choice(problem: Problem, answer: str) -> tuple[Compared, ...]:
    return (Compared("letter", _shown(choice.read_letter(answer)), _shown(choice.read_letter(problem.answer))),)


def _compare_roles(problem: Problem, answer: str) -> tuple[Compared, ...]:
    found, wanted = knights_knaves.read_roles(answer), knights_knaves.read_roles(problem.answer) or {}
    if found is None:
        return tuple(Compared(name, _UNREADABLE, role) for name, role in wanted.items())
    return tuple(Compared(name, found.get(name, "-"), wanted.get(name, "-")) for name in {**wanted, **found})


def _compare_exact(problem: Problem, answer: str) -> tuple[Compared, ...]:
    return (Compared("text", exact.plain(answer), exact.plain(problem.answer)),)


def _compare_gym(problem: Problem, answer: str) -> tuple[Compared, ...]:
    return (Compared("family", problem.meta["family"], problem.meta["family"]),)


_COMPARISONS: dict[str, Callable[[Problem, str], tuple[Compared, ...]]] = {
    "number": _compare_number,
    "word_problem": _compare_number,
    "chain": _compare_chain,
    "countdown": _compare_countdown,
    "math": _compare_math,
    "choice": _compare_choice,
    "knights_knaves": _compare_roles,
    "exact": _compare_exact,
    "reasoning_gym": _compare_gym,
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
