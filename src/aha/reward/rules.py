"""The rule rewards of DeepSeek-R1: accuracy, format, language consistency, and rule scores of general prompts.

Each is a function of a problem and a read response; none of them can be farmed by an empty, cut or doubled answer.
"""

from __future__ import annotations

import re

from aha.records import Problem, Status, Verdict
from aha.reward.accuracy import judge_accuracy
from aha.reward.notation import without_notation
from aha.reward.response import Response
from aha.tasks import general

_ENGLISH = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f"  # between them are the signs of products and quotients
_CHINESE = "\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
_GREEK = "\u0370-\u03ff"
_NAMES = re.compile(  # of what is computed with; in English "a" and "I", or "i", are words
    rf"(?<![{_ENGLISH}])[b-hj-zB-HJ-Z](?![{_ENGLISH}])|(?<![{_GREEK}])[{_GREEK}](?![{_GREEK}])"
)
_WORDS = re.compile(rf"(?P<zh>[{_CHINESE}]+)|(?P<en>[{_ENGLISH}]+)|(?:(?![{_CHINESE}{_ENGLISH}])[^\W\d_])+")


def accuracy(problem: Problem, response: Response) -> Verdict:
    """``judge_accuracy`` of one response; of many it is faster there."""
    return judge_accuracy([problem], [response])[0]


def format_tags(problem: Problem, response: Response) -> Verdict:
    """1 for ``<think> something </think> <answer> something </answer>`` and nothing else (R1v1 2.2.2)."""
    good = response.well_formed
    return Verdict("format", Status.RIGHT if good else Status.WRONG, float(good))


def language_share(text: str, language: str) -> float | None:
    """Words of ``language`` over all words in ``text`` (R1v1 2.3.2: Num(target) / Num(words)); ``None`` without words.

    An English word is a run of Latin letters. Chinese has no spaces: two Han characters are a word, as most of its
    words have, and one that is left over is another. A run of letters of any other script is a word of a third
    language. Numerals, symbols, names of one letter, formulas and code belong to nobody (reward/notation.py).
    """
    counts = {"en": 0, "zh": 0, None: 0}
    for match in _WORDS.finditer(_NAMES.sub(" ", without_notation(text))):
        counts[match.lastgroup] += (len(match[0]) + 1) // 2 if match.lastgroup == "zh" else 1
    total = sum(counts.values())
    return counts[language] / total if total else None


def language(problem: Problem, response: Response) -> Verdict:
    """Share of the thinking's words that are in the problem's language. Thinking without words earns nothing: silence
    must not be the way to a consistent language."""
    share = language_share(response.think, problem.language) or 0.0
    return Verdict("language", Status.RIGHT if share == 1.0 else Status.WRONG, share)


def general_rule(problem: Problem, response: Response) -> Verdict:
    """Rule score of a general prompt's answer."""
    value = general.score(problem, response.answer) if response.answer is not None else 0.0
    return Verdict("general", Status.RIGHT if value == 1.0 else Status.WRONG, value)
