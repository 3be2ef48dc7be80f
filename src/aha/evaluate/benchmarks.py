r"""Published benchmarks: how a row becomes a problem, how many samples of each, and what is asked beside the question.

The protocol is DeepSeek-R1's (R1v1 3, R1v2 D.1, R1-README): zero-shot, no system prompt, for mathematics "put your
final answer within \boxed{}", k = 64 samples for AIME and GPQA and 16 for MATH, at most 32,768 new tokens. Where no k
is published it is ours: 64 for tens of problems, 16 for hundreds, 4 (the least of R1v1) for a thousand and more. No row
is shipped: the user gives a local copy or a hub name. Field names are those of the authors, of usual hub copies, and of
plain JSON lines. What the row asks stays, bare, in ``meta["question"]``: what we add to it is no leak.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aha.data.fields import PROBLEM, question_of
from aha.errors import DataError, UsageError
from aha.evaluate.rows import Row, read_rows
from aha.records import Problem
from aha.reward.extraction import last_box
from aha.reward.programs import humaneval_problem, mbpp_problem
from aha.reward.readability import language_of
from aha.tasks import knights_knaves, number
from aha.util.seeds import python_rng

MAX_NEW_TOKENS = 32_768
BOXED = r"Please reason step by step, and put your final answer within \boxed{}."
ROLES = (
    r"Please reason step by step, and say within \boxed{} of everybody who they are, in this form: "
    r"(1) NAME is a knight, (2) NAME is a knave."
)
CHOICE = (
    "Answer the following multiple choice question. The last line of your response should be of the following format: "
    "'Answer: LETTER' (without quotes) where LETTER is one of {letters}. Think step by step before answering."
)
PROGRAM = "Please complete this Python program. Give the whole of it in one fenced block."
FUNCTION = "Please write the function in Python, in one fenced block."
_ANSWER = ("answer", "Answer", "answer_number", "final_answer", "golden", "solution_text_format", "solution_text")
_ID = ("id", "ID", "unique_id", "task_id", "Record ID", "problem_id")
_KEPT = ("level", "subject", "year")  # what scores are broken down by, or help to find a row


@dataclass(frozen=True)
class Benchmark:
    """``read(row, name)`` makes a problem whose ``id`` may still be empty; ``samples`` is the published k."""

    title: str
    samples: int
    read: Callable[[Row, str], Problem]


def _math(row: Row, name: str) -> Problem:
    return _asked(row, name, "math", answer=_gold(row))


def _word_problem(row: Row, name: str) -> Problem:
    """GSM8K's own answers are a solution that ends in ``#### 1,250``."""
    gold = _gold(row).rpartition("####")[2].strip()
    if number.parse_number(gold) is None:
        raise DataError(f"the answer {gold[:80]!r} is no single number")
    return _asked(row, name, "word_problem", answer=gold)


def _olympiad(row: Row, name: str) -> Problem:
    """Several answers are judged as a set, a numerical one within its published error; an error that is left out among
    several is 1e-8, as in the authors' judge."""
    tolerance = row.get("tolerance", row.get("error"))
    gold = _gold(row)
    problem = _asked(row, name, "math", answer=gold.replace("; ", ", ") if row.get("multiple") else gold)
    allowed = [float(part) if part.strip() else 1e-8 for part in str(tolerance).split(",")] if tolerance else []
    return replace(problem, meta={**problem.meta, "tolerance": allowed}) if allowed else problem


def _choice(row: Row, name: str) -> Problem:
    """GPQA's four answers in an order that depends on the question alone."""
    right = _field(row, ("Correct Answer",)).strip()
    wrong = [_field(row, (f"Incorrect Answer {i}",)).strip() for i in (1, 2, 3)]
    question = _question(row).strip()
    options = [right, *wrong]
    python_rng(0, "gpqa", question).shuffle(options)
    letters = "ABCD"
    listed = "\n".join(f"{letter}) {option}" for letter, option in zip(letters, options, strict=True))
    prompt = f"{CHOICE.format(letters=letters)}\n\n{question}\n\n{listed}"
    meta = {"subject": row["High-level domain"]} if row.get("High-level domain") else {}
    return Problem(_id(row), prompt, letters[options.index(right)], "choice", meta=meta)


def _roles(row: Row, name: str) -> Problem:
    """Logic-RL's rows say who is what as a text, the generator's as names with true for a knight."""
    names, truth = row.get("names"), row.get("solution")
    if isinstance(names, Sequence) and isinstance(truth, Sequence) and not isinstance(truth, str):
        roles = ["knight" if is_knight else "knave" for is_knight in truth]
        gold = "\n".join(f"({i}) {who} is a {role}" for i, (who, role) in enumerate(zip(names, roles, strict=True), 1))
    else:
        gold = _gold(row)
    if knights_knaves.read_roles(gold) is None:
        raise DataError(f"the answer {gold[:80]!r} says nobody's role, or somebody's twice")
    return _asked(row, name, "knights_knaves", answer=gold, directive=ROLES)


def _humaneval(row: Row, name: str) -> Problem:
    problem = humaneval_problem(row)
    return replace(problem, prompt=f"{PROGRAM}\n\n```python\n{problem.prompt.strip()}\n```")


def _mbpp(row: Row, name: str) -> Problem:
    problem = mbpp_problem(row)
    return replace(problem, prompt=f"{problem.prompt}\n{FUNCTION}")


BENCHMARKS = {
    "aime2024": Benchmark("AIME 2024", 64, _math),
    "aime2025": Benchmark("AIME 2025", 64, _math),
    "amc": Benchmark("AMC 2023", 64, _math),
    "cmath": Benchmark("CMATH", 4, _word_problem),
    "gpqa": Benchmark("GPQA", 64, _choice),
    "gsm8k": Benchmark("GSM8K", 4, _word_problem),
    "humaneval": Benchmark("HumanEval", 16, _humaneval),
    "knights_knaves": Benchmark("Knights and Knaves", 16, _roles),
    "math500": Benchmark("MATH-500", 16, _math),
    "mbpp": Benchmark("MBPP", 16, _mbpp),
    "mgsm": Benchmark("MGSM", 4, _word_problem),
    "minerva": Benchmark("Minerva (OCWCourses)", 16, _math),
    "olympiadbench": Benchmark("OlympiadBench", 16, _olympiad),
    "svamp": Benchmark("SVAMP", 4, _word_problem),
}


def load_benchmark_problems(name: str, source: str) -> list[Problem]:
    """The problems of ``BENCHMARKS[name]`` from a local copy or a hub name. ``DataError`` names the row that cannot be
    used; ``UsageError`` where the source is another benchmark's."""
    benchmark, problems = BENCHMARKS[name], []
    for index, row in enumerate(read_rows(source), 1):
        try:
            problem = benchmark.read(row, name)
            problem = replace(problem, meta={**problem.meta, "question": _question(row)})
        except (DataError, TypeError, ValueError) as error:
            raise DataError(f"{source}, row {index}, as {benchmark.title}: {error}") from None
        problems.append(problem if problem.id else replace(problem, id=f"{name}/{index}"))
    ids = [problem.id for problem in problems]
    if len(set(ids)) < len(ids):
        twice = next(one for one in ids if ids.count(one) > 1)
        raise UsageError(f"{source}: the id {twice!r} is there twice; does the folder hold several copies or splits?")
    return problems


def _asked(row: Row, name: str, task: str, *, answer: str, directive: str = BOXED) -> Problem:
    named = row.get("lang") or row.get("language")
    language = language_of({"language": str(named)}) if named else _language_in(row, name)
    meta = {key: row[key] for key in _KEPT if row.get(key) not in (None, "")}
    return Problem(_id(row), f"{_question(row).strip()}\n{directive}", answer, task, language, meta)


def _language_in(row: Row, name: str) -> str:
    """MGSM's rows on a hub do not say theirs: it is that of the question's script."""
    if name != "mgsm":
        return "zh" if name == "cmath" else "en"
    found = re.match(r"mgsm-([a-z]{2})-", _id(row))
    return found[1] if found else language_of({"problem": _question(row)})


def _gold(row: Row) -> str:
    """The gold as one text; several are listed."""
    for key in _ANSWER:
        value = row.get(key)
        if isinstance(value, Sequence) and not isinstance(value, str) and value:
            return ", ".join(str(one).strip().strip("$") for one in value)
        if value is not None and str(value).strip():
            return str(value).strip()
    if (box := last_box(str(row.get("solution") or ""))) is not None:
        return box
    raise DataError(f"no answer under {', '.join(_ANSWER)}, and no box in a solution (fields: {', '.join(row)})")


def _question(row: Row) -> str:
    return question_of(row) or _field(row, (*PROBLEM, "text"))  # MBPP's authors call it a text


def _id(row: Mapping[str, Any]) -> str:
    return next((str(row[key]) for key in _ID if row.get(key) not in (None, "")), "")


def _field(row: Row, names: Iterable[str]) -> str:
    for name in names:
        if isinstance(row.get(name), str) and row[name].strip():
            return str(row[name])
    raise DataError(f"no text under {', '.join(names)} (fields: {', '.join(row)})")
