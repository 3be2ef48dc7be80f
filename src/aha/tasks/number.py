"""Problems whose answer is one number: word problems (GSM8K, SVAMP) and generated sums and products."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from aha.records import Problem
from aha.tasks import formula

_NUMBER = re.compile(r"-?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:/[0-9]+)?")
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_CURRENCY = re.compile(r"[$€£¥](?=[-0-9.])")
_MINUS_SIGNS = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u207b\ufe63\uff0d", "-"))
_CHANGED = re.compile(  # what makes the value another than the digits say
    r"\b(?:minus|negative|not|or|sqrt)\b|[√±≠负負]"
    r"|-[^\w.]+\.?[0-9]"  # a minus apart: - 5, -(5), -\$5
    r"|(?:[^\W\d]|[-)\]}])[-+*/%^]+[.0-9]"  # x-5, --5, (x)*5
    r"|[0-9](?:\s*!|[-+*%^]+[^\W\d]\b|\*\*\w|\^[({])",  # 5!, 5*x, 5^(x), but 5-mile and 5^\circ
    re.IGNORECASE,
)

MAX_LENGTH = 200


def parse_number(text: str) -> Fraction | None:
    """The one number in ``text``, exact: ``$1,250.50`` is 2501/2. ``None`` when there is none or more than one.

    Thousands separators (``1,250``, ``1{,}250``, ``1\\,250``), a leading currency sign, a trailing unit or full stop
    are allowed; a second number is not, so that an answer cannot list several guesses. A minus apart from its number
    could be a dash, and digits of another script or a power would be overlooked: they are no number here. Nor is
    ``minus 5``, ``not 5``, ``5!``, ``√25`` or ``x-5``, whose value is not what the digits say.
    """
    if len(text) > MAX_LENGTH or _has_other_digits(text):
        return None
    plain = _CURRENCY.sub("", _THOUSANDS.sub("", formula.unspaced(text.translate(_MINUS_SIGNS))))
    found = _NUMBER.findall(plain)
    if len(found) != 1 or _CHANGED.search(plain):
        return None
    try:
        return Fraction(found[0])
    except (ValueError, ZeroDivisionError):
        return None


def _has_other_digits(text: str) -> bool:
    """``٤٢``, ``4２``, ``5²`` and ``5½``, but not the unit ``m²``."""
    for before, c in zip(" " + text, text, strict=False):
        kind = "" if c.isascii() else unicodedata.category(c)
        if kind == "Nd" or (kind == "No" and not before.isalpha()):
            return True
    return False


def is_correct(problem: Problem, answer: str) -> bool:
    """The answer holds exactly one number and it equals the gold."""
    value = parse_number(answer)
    return value is not None and value == parse_number(problem.answer)


def vote_key(answer: str) -> str | None:
    value = parse_number(answer)
    return None if value is None else str(value)


def addition(a: int, b: int) -> Problem:
    """``What is 7 + 45?``, with a level that grows with the digits: 1 for 1 + 1, 2 for 1 + 2, 3 for 2 + 2."""
    mirrored = f"sum/{min(a, b)}+{max(a, b)}"
    meta = {"family": "sum", "operands": [a, b], "level": len(str(a)) + len(str(b)) - 1, "split_key": mirrored}
    return Problem(f"sum/{a}+{b}", f"What is {a} + {b}?", str(a + b), "number", "en", meta)


def product(a: int, b: int) -> Problem:
    """``What is 7 * 8?``: two one-digit factors."""
    mirrored = f"product/{min(a, b)}*{max(a, b)}"
    meta = {"family": "product", "operands": [a, b], "level": 1, "split_key": mirrored}
    return Problem(f"product/{a}*{b}", f"What is {a} * {b}?", str(a * b), "number", "en", meta)
