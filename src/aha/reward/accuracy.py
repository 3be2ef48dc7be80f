"""The accuracy reward: is the answer right by its task's checker? In this process, or for many at once in others.

A checker that fails in whatever way is an ERROR for its sample, never a wrong answer and never the end of the run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from aha.errors import DataError, SandboxError
from aha.records import Problem, Status, Verdict
from aha.reward.extraction import find_answer
from aha.reward.programs import judge_programs
from aha.reward.response import Response
from aha.tasks import gym, mathematics
from aha.tasks.checkers import checker_of

Judge = Callable[[Sequence[Problem], Sequence[Response]], Sequence[Verdict]]


def judge_accuracy(problems: Sequence[Problem], responses: Sequence[Response]) -> list[Verdict]:
    """1 when the answer is right by the task's checker, else 0 (R1v2 B.3.1); each task's responses in one call."""
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, problem in enumerate(problems):
        checker_of(problem)  # a task nobody can check is a fault of the data, not of a response
        rows_of[problem.task].append(row)
    verdicts: dict[int, Verdict] = {}
    for task, rows in rows_of.items():
        judge = BATCHES.get(task, _judge_each)
        asked, said = [problems[row] for row in rows], [responses[row] for row in rows]
        try:
            found = judge(asked, said)
        except (DataError, SandboxError):  # no tests, no sandbox: a fault of the data or the machine, not of a response
            raise
        except Exception as error:
            found = [_failed(error, response) for response in said]
        verdicts.update(zip(rows, found, strict=True))
    return [verdicts[row] for row in range(len(problems))]


def _judge_each(problems: Sequence[Problem], responses: Sequence[Response]) -> list[Verdict]:
    return [_judge_one(problem, response) for problem, response in zip(problems, responses, strict=True)]


def _judge_one(problem: Problem, response: Response) -> Verdict:
    checker = checker_of(problem)
    found = find_answer(problem, response)
    if found is None:
        return _no_answer()
    try:
        right = checker.is_correct(problem, found.text)
    except Exception as error:  # the checker's fault, not the model's
        return _failed(error, response)
    note = f"answer {found.text!r}, gold {problem.answer!r}"
    return Verdict("accuracy", Status.RIGHT if right else Status.WRONG, float(right), note)


def _judge_found(
    problems: Sequence[Problem],
    responses: Sequence[Response],
    verify: Callable[[Sequence[Problem], Sequence[str]], Sequence[Verdict]],
) -> list[Verdict]:
    """``verify`` judges the answers that there are, in one call."""
    found = [find_answer(problem, response) for problem, response in zip(problems, responses, strict=True)]
    rows = [row for row, one in enumerate(found) if one]
    verdicts = verify([problems[row] for row in rows], [one.text for one in found if one])
    judged = dict(zip(rows, verdicts, strict=True))
    return [judged.get(row) or _no_answer() for row in range(len(problems))]


def _judge_math(problems: Sequence[Problem], responses: Sequence[Response]) -> list[Verdict]:
    def verify(asked: Sequence[Problem], answers: Sequence[str]) -> list[Verdict]:
        verdicts = mathematics.verify_many([(p.answer, answer) for p, answer in zip(asked, answers, strict=True)])
        return [_tolerate(*one) for one in zip(asked, answers, verdicts, strict=True)]

    return _judge_found(problems, responses, verify)


def _tolerate(problem: Problem, answer: str, verdict: Verdict) -> Verdict:
    """Right too where the problem has a ``tolerance``, or a list of them, and its numbers are off by no more."""
    tolerance = problem.meta.get("tolerance")
    if not tolerance or verdict.status is not Status.WRONG:
        return verdict
    allowed = [float(one) for one in (tolerance if isinstance(tolerance, list | tuple) else [tolerance])]
    if not mathematics.is_within(problem.answer, answer, allowed):
        return verdict
    return Verdict("accuracy", Status.RIGHT, 1.0, f"{verdict.note}, within {', '.join(map(str, allowed))}")


def _judge_gym(problems: Sequence[Problem], responses: Sequence[Response]) -> list[Verdict]:
    return _judge_found(problems, responses, gym.verify_many)


BATCHES: dict[str, Judge] = {
    "code": judge_programs,
    "math": _judge_math,
    "reasoning_gym": _judge_gym,
}
"""Tasks whose answers are judged many at a time, in processes of their own."""


def _no_answer() -> Verdict:
    return Verdict("accuracy", Status.WRONG, 0.0, "no single <answer>...</answer>")


def _failed(error: Exception, response: Response) -> Verdict:
    return Verdict("accuracy", Status.ERROR, 0.0, f"checker failed on {str(response.answer)[:80]!r}: {error!r}"[:400])
