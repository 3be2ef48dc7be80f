"""Multiple choice: the answer is one letter, A to J, however it is written: ``B``, ``(B)``, ``B.``, ``B) the text``."""

from __future__ import annotations

import re

from aha.records import Problem

_PREFIX = re.compile(r"(?:option|choice|answer)\s*:?\s*(?=[(A-Ja-j])", re.IGNORECASE)
_ALONE = re.compile(r"(?:\\(?:text|textbf|mathrm|mathbf)\{)?[*$\s]*\(?([A-Ja-j])\)?[*$\s.:]*\}?[*$\s.]*")
_WITH_TEXT = re.compile(r"\*{0,2}(?:\(([A-J])\)|([A-J])[).:])\*{0,2}\s+(.+)", re.DOTALL)
_LETTER = re.compile(r"(?<![A-Za-z0-9'])[A-J](?![A-Za-z0-9'])")
_WORD = re.compile(r"(?<![A-Za-z])(?:A|I)\s+[a-z]")
_UNDECIDED = re.compile(r"\b(?:or|not|either|neither|nor)\s+\(?[A-J]\b")
MAX_LENGTH = 500


def read_letter(text: str) -> str | None:
    """The one letter that is chosen; ``None`` when none is, or a second one is named: ``A or B``, ``not B``.

    In the text after a letter ``A cat`` and ``I am`` are words.
    """
    text = text.strip()
    if len(text) > MAX_LENGTH:
        return None
    text = _PREFIX.sub("", text, count=1) if _PREFIX.match(text) else text
    if alone := _ALONE.fullmatch(text):
        return alone[1].upper()
    if not (worded := _WITH_TEXT.fullmatch(text)):
        return None
    letter, rest = worded[1] or worded[2], worded[3]
    words = {found.start() for found in _WORD.finditer(rest)}
    others = [found for found in _LETTER.finditer(rest) if found.start() not in words and found[0] != letter]
    return None if others or _UNDECIDED.search(rest) else letter


def is_correct(problem: Problem, answer: str) -> bool:
    """The answer names one letter and it is the gold's."""
    letter = read_letter(answer)
    return letter is not None and letter == read_letter(problem.answer)


def vote_key(answer: str) -> str | None:
    return read_letter(answer)
