"""What counts as one answer in a majority vote: equivalent answers vote together.

Every task writes an answer in one canonical way; two formulas can be equal all the same (``2+x`` and ``x+2``), which
only the verifier's algebra can tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aha.records import Problem, Status
from aha.reward.extraction import find_answer
from aha.reward.programs import extract_program
from aha.reward.response import Response
from aha.tasks import mathematics
from aha.tasks.checkers import checker_of

Keys = list[str | None]


def vote_keys(problems: Sequence[Problem], responses_PK: Sequence[Sequence[Response]]) -> list[Keys]:
    """The key of every response, a row a problem; ``None`` where there is no answer. Equal formulas of one problem have
    the key of the one said first."""
    keys_PK: list[Keys] = []
    said_P: list[dict[str, str]] = []
    for problem, responses in zip(problems, responses_PK, strict=True):
        answers = [read_vote(problem, response) for response in responses]
        keys_PK.append([answer and answer[0] for answer in answers])
        said_P.append({})
        for key, text in filter(None, answers) if problem.task == "math" else ():
            said_P[-1].setdefault(key, text)
    first_P = join_equal(said_P)
    return [[first.get(key, key) if key else key for key in keys] for keys, first in zip(keys_PK, first_P, strict=True)]


def read_vote(problem: Problem, response: Response) -> tuple[str, str] | None:
    """The key of a response and the answer as it was said; of a program the one that would be run. ``None`` where there
    is no answer."""
    if problem.task == "code":
        text = extract_program(response)
    else:
        found = find_answer(problem, response)
        text = None if found is None else found.text
    key = None if text is None else checker_of(problem).vote_key(text)
    return None if text is None or key is None else (key, text)


def join_equal(said_P: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """For the keys of every problem's formulas the first key that each equals; with each key, what was said.

    In each round the first formula left of every problem is compared with all others left of it, all problems in one
    call: as many rounds as a problem has different answers.
    """
    left_P = [list(said) for said in said_P]
    first_P: list[dict[str, str]] = [{} for _ in said_P]
    while any(left_P):
        pairs = [
            (said[left[0]], said[other]) for said, left in zip(said_P, left_P, strict=True) for other in left[1:]
        ]
        verdicts = iter(mathematics.verify_many(pairs))
        for row, left in enumerate(left_P):
            if left:
                equal = [other for other in left[1:] if next(verdicts).status is Status.RIGHT]
                first_P[row] |= dict.fromkeys([left[0], *equal], left[0])
                left_P[row] = [other for other in left[1:] if other not in equal]
    return first_P


class Formulas:
    """The formulas of one problem as they come, one by one: equal ones have the key of the one said first."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}
        self._first: dict[str, str] = {}

    def join(self, key: str, text: str) -> str:
        """The key that counts for a formula that was said as ``text``."""
        if key not in self._first:
            verdicts = mathematics.verify_many([(said, text) for said in self._said.values()])
            equal = (k for k, v in zip(self._said, verdicts, strict=True) if v.status is Status.RIGHT)
            self._first[key] = next(equal, key)
            if self._first[key] == key:
                self._said[key] = text
        return self._first[key]
