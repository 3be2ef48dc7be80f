"""Words by which a model notices its own mistakes."""

from __future__ import annotations

import re

from aha.tasks.words import say

ENGLISH = ("wait", "mistake", "however", "but", "retry", "error", "verify", "wrong", "evaluate", "check")
"""DeepSeek-R1's list (R1v2 C.2)."""

WORDS = frozenset([*ENGLISH, "no", "again", *(say(word, "zh") for word in ("wait", "check", "no", "again"))])


def count_reflections(text: str) -> int:
    """How many words of ``text`` are reflective, in either language."""
    return sum(word.lower() in WORDS for word in re.findall(r"[A-Za-z]+|[\u4e00-\u9fff]+", text))
