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
    r"|[0-9](?:\s*!|[-+*%^]+[^\W\d]\b|\*\*\w|\^[({])"  # 5!, 5*x, 5^(x), but 5-mile and 5^\circ
    r"|[0-9]\s*[^\W\d]{1,20}\s*[+*]\s*[^\W\d]"  # 5n+n
    r"|\\(?!(?:text|math|emph|underline|boxed|fbox|left|right|displaystyle|circ|degree|prime|approx|q?quad)"
    r"|(?:rm|bf|it|sf|tt|pounds?|euro|yen|cents?|dollars?|per(?:cent|mil)|ohm|Omega|mu)(?![a-zA-Z]))[a-zA-Z]"  # 5\pi
    r"|(?<![-=])[<>]=?\s*[-.0-9]|[0-9]\s*[<>+]"  # bounds: <5, 5+, but => 5
    r"|[≤≥⩽⩾]|\\[lg][et](?:q|q?slant)?(?![a-z])"
    r"|[0-9](?:k|(?-i:M|B))\b|[0-9]\s*(?:[万萬亿億兆]|千(?![克米瓦卡])|百(?!分))"  # 5k, 5万, but 5千克 is 5 kg
    r"|[0-9][\s*_$\\{}-]*(?:(?:text|mathrm)[\s{]*)?"  # 5 million, 5\text{ million}
    r"(?:hundred|thousand|million|billion|trillion|dozen|lakh|crore|(?:bn|mn|mil|mille)\b"
    r"|milliard|millon|millón|tausend|тысяч|миллион|миллиард|and an? (?:half|third|quarter)\b)",
    re.IGNORECASE,
)
_TAG = re.compile(r"</?[a-z]{1,20}\s*/?>", re.IGNORECASE)
_UNIT_POWER = re.compile(
    r"(\\(?:text|mathrm)\s*\{[^{}0-9]*\}|(?<![a-zA-Z\\])(?:[cdkm]?m|ft|in|yd|mi|s|units?|inch(?:es)?|feet|foot|yards?"
    r"|miles?|(?:centi|deci|kilo|milli)?met(?:er|re)s?|seconds?))\s*\^\s*(?:\{[23]\}|[23](?![0-9]))"
)

MAX_LENGTH = 200


def parse_number(text: str) -> Fraction | None:
    """The one number in ``text``, exact: ``$1,250.50`` is 2501/2. ``None`` when there is none or more than one.

    Thousands separators (``1,250``, ``1{,}250``, ``1\\,250``), a leading currency sign, a trailing unit or full stop
    are allowed; a second number is not, so that an answer cannot list several guesses. A minus apart from its number
    could be a dash, and digits of another script or a power would be overlooked, but for a unit's (``5 m^2``): they are
    no number here. Nor is ``minus 5``, ``not 5``, ``5!``, ``√25``, ``x-5``, ``5 million``, ``5k``, ``<5`` or ``5+``,
    whose value is not what the digits say, or ``5\\pi``, a command of LaTeX that may make another number of them. A
    fraction may be written ``\\frac{1}{2}``.
    """
    if len(text) > MAX_LENGTH or _has_other_digits(text):
        return None
    fraction = formula.clean(text)
    if "frac" in fraction and (value := formula.read_number(fraction)) is not None:
        return value
    plain = _UNIT_POWER.sub(r"\1", _TAG.sub(" ", text))
    plain = _CURRENCY.sub("", _THOUSANDS.sub("", formula.unspaced(plain.translate(_MINUS_SIGNS))))
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
