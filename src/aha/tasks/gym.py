"""Problems of reasoning-gym: a hundred families, each with a verifier, which runs in killable processes.

reasoning-gym is an optional dependency: ``pip install 'aha[gym]'``.
"""

from __future__ import annotations

import ast
import importlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from aha.errors import UsageError, nearest
from aha.records import Problem, Status, Verdict
from aha.tasks import exact
from aha.util.workers import End, Outcome, Workers

POOL = Workers("aha.tasks.gym_scores:compute_score", deadline=10.0, memory=4 << 30)
MAX_LENGTH = 20_000
LEFT_OUT = {
    "codeio": "it runs the programs of its data in this very process, and some write files",
    "composite": "it is made of other families, by settings",
    "game_of_life_halting": "where the gold is False its verifier takes every text but True for right",
}


def families() -> list[str]:
    """The names of all families but those of ``LEFT_OUT``."""
    return [name for name in sorted(_library().factory.DATASETS) if name not in LEFT_OUT]


def generate(family: str, *, seed: int, size: int) -> list[Problem]:
    """``size`` problems of a family. ``UsageError`` for a name there is not, and where reasoning-gym is missing.

    ``meta["entry"]`` is what the family's verifier reads, as Python literals: JSON would turn its tuples into lists and
    its numbered keys into strings, which some verifiers count as wrong. Five families have many right answers and no
    gold, so that ``answer`` is empty. A question that is drawn twice is on one side of the split.
    """
    names = families()
    if family in LEFT_OUT:
        raise UsageError(f"the family {family!r} of reasoning-gym is left out: {LEFT_OUT[family]}")
    if family not in names:
        raise UsageError(f"no family {family!r} of reasoning-gym: {nearest(family, names)}")
    problems = []
    for index, entry in enumerate(_library().create_dataset(family, seed=seed, size=size)):
        question, gold = str(entry["question"]).strip(), entry["answer"]
        problems.append(
            Problem(
                id=f"gym/{family}/{seed}/{index}",
                prompt=question,
                answer="" if gold is None else str(gold),
                task="reasoning_gym",
                meta={"family": family, "split_key": f"gym/{family}/{question}", "entry": _literal(entry)},
            )
        )
    return problems


def verify_many(problems: Sequence[Problem], answers: Sequence[str]) -> list[Verdict]:
    """Right where the family's verifier gives 1; its partial scores are told in the note and earn nothing. An answer
    that makes it fail is wrong if the gold, or an empty answer where there is none, does not; else it is an ERROR."""
    rows = [row for row, answer in enumerate(answers) if len(answer) <= MAX_LENGTH]
    outcomes = dict(zip(rows, POOL.run([_job(problems[row], answers[row]) for row in rows]), strict=True))
    failed = [row for row in rows if outcomes[row].end is not End.DONE]
    alone = dict(zip(failed, POOL.run([_job(problems[row], problems[row].answer) for row in failed]), strict=True))
    return [_verdict(problems[row], outcomes.get(row), alone.get(row)) for row in range(len(problems))]


def is_correct(problem: Problem, answer: str) -> bool:
    """Whether the family's verifier gives 1. ``ValueError`` when it fails."""
    (verdict,) = verify_many([problem], [answer])
    if verdict.status is Status.ERROR:
        raise ValueError(verdict.note)
    return verdict.status is Status.RIGHT


def vote_key(answer: str) -> str | None:
    """Answers are one when they are the same text but for white space and case."""
    return exact.vote_key(answer)


def _job(problem: Problem, answer: str) -> tuple[str, str, str]:
    return problem.meta["family"], problem.meta["entry"], answer


def _verdict(problem: Problem, outcome: Outcome | None, alone: Outcome | None) -> Verdict:
    family = problem.meta["family"]
    if outcome is None:
        return Verdict("accuracy", Status.WRONG, 0.0, f"more than {MAX_LENGTH} characters")
    if outcome.end is End.DONE:
        right = outcome.value == 1.0
        status = Status.RIGHT if right else Status.WRONG
        return Verdict("accuracy", status, float(right), f"{family} gives {outcome.value:g}")
    said = f"the verifier of {family} on {problem.id!r}: {outcome.end.value} ({outcome.note})"
    if outcome.end is End.KILLED or alone is None or alone.end is not End.DONE:
        return Verdict("accuracy", Status.ERROR, 0.0, said)
    return Verdict("accuracy", Status.WRONG, 0.0, said)


def _literal(entry: Mapping[str, Any]) -> str:
    text = repr(entry)
    try:
        if ast.literal_eval(text) == entry:
            return text
    except ValueError:  # numbers and lists of numpy, say
        pass
    return repr(json.loads(json.dumps(entry, default=str)))


def _library() -> Any:
    try:
        return importlib.import_module("reasoning_gym")
    except ModuleNotFoundError as error:
        if error.name != "reasoning_gym":
            raise
        raise UsageError("problems of reasoning-gym need it: pip install 'aha[gym]'") from None
