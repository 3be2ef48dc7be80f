"""Milder ways to reward the format and a first answer than ``rules.format_tags``, for models that rarely get it whole.

All read a ``Response``, so a tag that the prompt's template has already opened counts as there (reward/response.py).
"""

from __future__ import annotations

from aha.records import Problem, Status, Verdict
from aha.reward.response import TAGS, Response
from aha.reward.rules import accuracy
from aha.tasks.checkers import checker_of


def tag_count(problem: Problem, response: Response) -> Verdict:
    """A quarter for each of the four tags that is there exactly once, in any order (Open-R1's tag_count)."""
    once = sum(count == 1 for count in response.tags)
    score = once / len(TAGS)
    return Verdict("tag_count", Status.RIGHT if score == 1.0 else Status.WRONG, score, f"{once} of {len(TAGS)} tags")


def carrot(problem: Problem, response: Response, *, small: float = 0.1) -> Verdict:
    """Accuracy with a small carrot: 1 for a right answer, ``small`` for a wrong one that the checker can read, else 0.

    TinyZero's Countdown reward (0, 0.1, 1). It takes the place of ``rules.accuracy``: an untrained model learns to
    answer at all. What cannot be read earns nothing, so that any two words between the tags are no answer. A checker
    that fails is an error, as there.
    """
    verdict = accuracy(problem, response)
    if verdict.status is not Status.WRONG:
        return Verdict("carrot", verdict.status, verdict.score, verdict.note)
    readable = response.answer is not None and checker_of(problem).vote_key(response.answer) is not None
    return Verdict("carrot", Status.WRONG, small if readable else 0.0, verdict.note)
