"""Equality of formulas by math-verify: runs in a worker process only, since computer algebra may never end."""

from __future__ import annotations

import logging
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify

logging.disable(logging.CRITICAL)  # it warns that deadlines are ours to keep: they are

CONFIG = [LatexExtractionConfig(boxed_match_priority=-1)]
"""The whole text is one formula. math-verify's readers of prose and of plain numbers would take the last number of a
text that they cannot read otherwise, so that ``7 or 8 or`` something odd would be an answer."""


def compare(gold: str, answer: str, show: bool) -> dict[str, Any]:
    """Whether each side was read, and whether they are equal; with ``show`` also what was read, as text."""
    # None, or math-verify would set alarms.
    golds, answers = (
        parse(f"${text}$", CONFIG, fallback_mode="no_fallback", parsing_timeout=None) for text in (gold, answer)
    )
    equal = bool(golds and answers) and verify(golds, answers, timeout_seconds=None)
    seen = {"shown": [", ".join(map(str, side))[:200] for side in (golds, answers)]} if show else {}
    return {"read": [bool(golds), bool(answers)], "equal": equal, **seen}
