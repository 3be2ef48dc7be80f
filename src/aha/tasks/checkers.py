"""Which checker judges which task: one table, so that a problem file can name its task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aha.errors import DataError, nearest
from aha.records import Problem
from aha.tasks import chain, choice, countdown, exact, formula, gym, knights_knaves, mathematics, number, programs


@dataclass(frozen=True)
class Checker:
    """``is_correct(problem, answer)`` judges; ``vote_key(answer)`` is what a majority vote counts as one answer.

    ``boxed``: the answer may stand in a box or after "the answer is", and need not have a tag.
    """

    is_correct: Callable[[Problem, str], bool]
    vote_key: Callable[[str], str | None]
    boxed: bool = False


CHECKERS = {
    "chain": Checker(chain.is_correct, chain.vote_key),
    "choice": Checker(choice.is_correct, choice.vote_key, boxed=True),
    "code": Checker(programs.is_correct, programs.vote_key),
    "countdown": Checker(countdown.is_correct, countdown.vote_key),
    "exact": Checker(exact.is_correct, exact.vote_key, boxed=True),
    "knights_knaves": Checker(knights_knaves.is_correct, knights_knaves.vote_key, boxed=True),
    "math": Checker(mathematics.is_correct, formula.vote_key, boxed=True),
    "number": Checker(number.is_correct, number.vote_key),
    "reasoning_gym": Checker(gym.is_correct, gym.vote_key),
    "word_problem": Checker(number.is_correct, number.vote_key, boxed=True),
}


def checker_of(problem: Problem) -> Checker:
    """``DataError`` when the problem names a task nobody can check."""
    if problem.task not in CHECKERS:
        hint = nearest(problem.task, CHECKERS)
        raise DataError(f"problem {problem.id!r}: no checker for task {problem.task!r}; {hint}")
    return CHECKERS[problem.task]
