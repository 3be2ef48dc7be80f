"""Words by which a model notices its own mistakes."""

from __future__ import annotations

import re

from aha.tasks.words import say

ENGLISH = ("wait", "mistake", "however", "but", "retry", "error", "verify", "wrong", "evaluate", "check")
"""DeepSeek-R1's list (R1v2 C.2)."""

CHINESE = tuple(say(word, "zh") for word in ("wait", "check", "no", "again"))
WORDS = frozenset([*ENGLISH, "no", "again", *CHINESE])
_WORD = re.compile("|".join(["[A-Za-z]+", *CHINESE]))  # Chinese is written without spaces


def count_reflections(text: str) -> int:
    """How many words of ``text`` are reflective, in either language."""
    return sum(word.lower() in WORDS for word in _WORD.findall(text))
