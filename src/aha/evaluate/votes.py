"""What counts as one answer in a majority vote: equivalent answers vote together.

Every task writes an answer in one canonical way; two formulas can be equal all the same (``2+x`` and ``x+2``), which
only the verifier's algebra can tell.
"""

from __future__ import annotations

from collections.abc import Sequence

from aha.records import Problem, Status
from aha.reward.extraction import find_answer
from aha.reward.response import Response
from aha.tasks import mathematics
from aha.tasks.checkers import checker_of

Keys = list[str | None]


def vote_keys(problems: Sequence[Problem], responses_PK: Sequence[Sequence[Response]]) -> list[Keys]:
    """The key of every response, a row a problem; ``None`` where there is no answer. Equal formulas of one problem have
    the key of the one said first."""
    keys_PK = [[_key(problem, r) for r in row] for problem, row in zip(problems, responses_PK, strict=True)]
    formulas = [row for row, problem in enumerate(problems) if problem.task == "math"]
    for row, joined in zip(formulas, join_equal([keys_PK[row] for row in formulas]), strict=True):
        keys_PK[row] = joined
    return keys_PK


def join_equal(keys_PK: Sequence[Keys]) -> list[Keys]:
    """The formulas of every problem, each replaced by the first one that it equals.

    In each round the first formula left of every problem is compared with all others left of it, all problems in one
    call: as many rounds as a problem has different answers.
    """
    left_P = [list(dict.fromkeys(key for key in keys if key is not None)) for keys in keys_PK]
    first_P: list[dict[str | None, str | None]] = [{None: None} for _ in keys_PK]
    while any(left_P):
        pairs = [(left[0], other) for left in left_P for other in left[1:]]
        verdicts = iter(mathematics.verify_many(pairs))
        for row, left in enumerate(left_P):
            if left:
                equal = [other for other in left[1:] if next(verdicts).status is Status.RIGHT]
                first_P[row] |= dict.fromkeys([left[0], *equal], left[0])
                left_P[row] = [other for other in left[1:] if other not in equal]
    return [[first[key] for key in keys] for keys, first in zip(keys_PK, first_P, strict=True)]


def _key(problem: Problem, response: Response) -> str | None:
    found = find_answer(problem, response)
    return None if found is None else checker_of(problem).vote_key(found.text)
