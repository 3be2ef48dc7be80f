"""Problems whose answer is a text: equal but for white space and case."""

from __future__ import annotations

from aha.records import Problem


def plain(text: str) -> str:
    """``"  Mount  Fuji "`` is ``"mount fuji"``."""
    return " ".join(text.split()).casefold()


def is_correct(problem: Problem, answer: str) -> bool:
    """The answer is the gold's text; an empty one never is."""
    return bool(plain(answer)) and plain(answer) == plain(problem.answer)


def vote_key(answer: str) -> str | None:
    return plain(answer) or None
