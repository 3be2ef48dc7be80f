"""Equality of formulas by math-verify: runs in a worker process only, since computer algebra may never end."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

from latex2sympy2_extended.logic import And
from math_verify import LatexExtractionConfig, parse, verify
from sympy import Eq, Expr, FiniteSet, Float, Interval, Tuple, Union
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

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
    equal = bool(golds and answers) and _are_equal(golds[0], answers[0], gold, answer)
    seen = {"shown": [", ".join(map(str, side))[:200] for side in (golds, answers)]} if show else {}
    return {"read": [bool(golds), bool(answers)], "equal": equal, **seen}


def _are_equal(meant: Any, said: Any, gold: str, answer: str) -> bool:
    """math-verify's verdict, but the last member of ``4 = 5`` is not the answer, a set is no point or interval, and an
    inequality may be said for an interval as an interval may for an inequality."""
    if r"\circ" not in answer and _names_two(said) and not _names_two(meant):
        return False
    meant, said = _united(meant, gold), _united(said, answer)
    listed, pair = _sides(said)[-1], _sides(meant)[-1]
    if _is_list(listed) and _is_pair(pair) and not (_may_be_point(pair) and _is_bare(listed, answer)):
        return False
    if r"\{" in gold and isinstance(_sides(meant)[-1], FiniteSet) and _is_pair(_sides(said)[-1]):
        return False  # without braces, 2,5 may stand for a pair
    solved = _is_solved(said) and not isinstance(meant, FiniteSet)
    equal = verify([meant], [said], timeout_seconds=None, allow_set_relation_comp=solved)
    return bool(equal) and not ("%" not in gold + answer and _are_tiny_and_apart(meant, said))


def _united(read: Any, text: str) -> Any:
    """``x < 2 or x > 3`` as the numbers that it allows; anything else as it is."""
    if not (isinstance(read, FiniteSet) and re.search(r"\bor\b", text) and len(read.free_symbols) == 1):
        return read
    if all(isinstance(part, Relational) and not isinstance(part, Eq) and _is_solved(part) for part in read):
        return Union(*(part.as_set() for part in read))
    return read


def _are_tiny_and_apart(meant: Any, said: Any) -> bool:
    """math-verify rounds to six decimals, by which all tiny numbers are one; a unit or a product may stand behind."""
    x, y = _sides(meant)[-1], _sides(said)[-1]
    if not all(isinstance(side, Expr) and side.is_number and side.is_real for side in (x, y)):
        return False
    largest = max(abs(x.evalf()), abs(y.evalf()))
    return bool(largest < 1e-3 and abs((x - y).evalf()) > largest / 1000)


def _links(read: Any) -> Sequence[Any]:
    """The relations of a chain, ``x < 2`` and ``2 < y`` of ``x < 2 < y``; of anything else the whole."""
    return read._unsorted_args if isinstance(read, And) else [read]


def _sides(read: Any) -> list[Any]:
    """What stands on either side of each ``=``; where there is none, all that was read."""
    return [side for link in _links(read) for side in (link.args if isinstance(link, Eq) else [link])]


def _names_two(read: Any) -> bool:
    """Whether a chain of equations names another number than its last: ``4 = 5``, but not ``2 + 3 = 5``."""
    numbers = [side for side in _sides(read) if isinstance(side, Expr) and side.is_number]
    return not all(_is_near(number, numbers[-1]) for number in numbers[:-1])


def _is_near(number: Any, last: Any) -> bool:
    """Equal, or within a twentieth where one is a decimal fraction: it may be rounded."""
    if verify([last], [number], timeout_seconds=None):
        return True
    return (number.has(Float) or last.has(Float)) and bool(abs((number - last).evalf()) <= abs(last.evalf()) / 20)


def _is_pair(read: Any) -> bool:
    """A point of two coordinates, an interval, or an inequality."""
    inequality = isinstance(read, Relational) and not isinstance(read, Eq)
    return inequality or isinstance(read, Interval) or (isinstance(read, Tuple) and len(read) == 2)


def _is_list(read: Any) -> bool:
    """``2, 5`` or ``\\{2, 5\\}``, but not coordinates by name: ``x = 2, y = 5``."""
    return isinstance(read, FiniteSet) and len({part.lhs for part in read if isinstance(part, Eq)}) < len(read)


def _may_be_point(pair: Any) -> bool:
    """``(2, -1)``, and ``(0, 1)``, which is read as an interval."""
    if isinstance(pair, Interval) and pair.left_open and pair.right_open:
        return not (pair.is_left_unbounded or pair.is_right_unbounded)
    return isinstance(pair, Tuple)


def _is_bare(listed: FiniteSet, answer: str) -> bool:
    """``2, -1``, which is the point whose brackets were left out; no set by its signs."""
    return r"\{" not in answer and r"\pm" not in answer and not any(isinstance(part, Eq) for part in listed)


def _is_solved(read: Any) -> bool:
    """Inequalities of one name and numbers, ``-1 < x < 1``: others may be the question."""
    return all(
        isinstance(link, Relational)
        and any(side.is_number for side in link.args)
        and any(side.is_Symbol or isinstance(side, AppliedUndef) for side in link.args)
        for link in _links(read)
    )
