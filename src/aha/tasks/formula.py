"""A mathematical answer as text: made plain, refused where no formula can be meant, read exactly where it is a number.

What is refused here never reaches the computer algebra: towers of powers that would fill the memory, and texts that its
reader takes for less than they say (it sums ``3 4`` to 7).
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

MAX_LENGTH = 1_000
MAX_DIGITS = 300
MAX_DEPTH = 20

_SYMBOLS = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\ufe63", "-")
    | {"×": r"\times ", "·": r"\cdot ", "÷": "/", "°": r"^\circ ", "√": r"\sqrt ", "≠": r"\ne "}
    | {"≤": r"\le ", "≥": r"\ge ", "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "±": r"\pm "}
    | {"²": "^2", "³": "^3", "½": r"\frac{1}{2}"}
)
_ROOT_OF_DIGITS = re.compile(r"\\sqrt\s+([0-9]{2,})")
_NO_SPACE = re.compile(r"(?<![\\a-zA-Z])\\!|\\!(?![a-zA-Z])|(?<=[0-9])\\,(?=[0-9]{3}(?![0-9]))")
_SPACE = re.compile(
    r"(?<!\\)\\[,:;>!\s]|\\(?:q?quad|enspace|(?:thin|med|thick)space)(?![a-zA-Z])|~|(?<=[0-9,])\{\s*\}(?=[-.0-9])"
)
_TWO_DIGITS = re.compile(r"(\\[cdt]?frac|\\[dt]?binom)\s*([0-9])\s*([0-9])(?!\s*\.?[0-9])")  # \frac 1 2
_ONE_DIGIT = re.compile(r"(\^|(?<![0-9)}])_|\\sqrt)\s*([0-9])(?=\s+\.?[0-9])")  # \log_2 3, 2^3 5
_REPEATING = re.compile(
    r"(?<![0-9])(?<![0-9] )(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{0,50})\.(?P<once>[0-9]{0,50})"
    r"\\(?:overline|bar|dot)\s*(?:\{(?P<cycle>[0-9]{1,50})\}|(?P<digit>[0-9]))(?![0-9])"
)
_BASES = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_BASES += ["thirteen", "fourteen", "fifteen", "sixteen"]
_NUMERAL = re.compile(  # 110_2, (110)_{2}, 1A.8_{\text{sixteen}}; no exponent or name before it
    r"(?<![0-9A-Za-z_.^)}])(?P<open>[({])?(?=[A-Z]*[0-9])(?P<whole>[0-9A-Z]+)(?:\.(?P<part>[0-9A-Z]+))?(?(open)[)}])"
    r"\s?_\s?(?P<brace>\{\s?)?(?P<text>\\(?:text|mathrm)\s?\{\s?)?(?P<round>\()?(?:base\s?)?"
    rf"(?P<base>[0-9]{{1,2}}|{'|'.join(_BASES)})(?![0-9A-Za-z])(?(round)\))(?(text)\s?\}})(?(brace)\s?\}})"
)
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_BETWEEN_FORMULAS = re.compile(r"(?<!\\)\$\s*(?:,\s*and|,\s*or|,|;|and|or)\s*\$")
_SCIENTIFIC = re.compile(r"(?P<digits>[-+]?[0-9]+(?:\.[0-9]+)?)[eE](?P<power>[-+]?[0-9]{1,3})")
_MIXED = re.compile(r"(?P<sign>-?)(?P<whole>[0-9]+) (?P<over>[0-9]+)/(?P<under>[0-9]+)")
_SPACED_THOUSANDS = re.compile(r"-?[0-9]{1,3}(?: [0-9]{3})+(?:\.[0-9]+)?")
_NUMBER = re.compile(
    r"(?P<sign>[-+]?)(?:(?P<decimal>(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"|(?P<over>[0-9]+)/(?P<under>[0-9]+)|\\[dt]?frac\{(?P<above>[0-9]+)\}\{(?P<below>[0-9]+)\})"
)
_POWER_OF_TEN = re.compile(
    r"(?P<sign>[-+]?)(?:(?P<digits>[0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*\\(?:times|cdot)\s*)?"
    r"10\s*\^\s*(?P<brace>\{)?\s*(?P<power>-?[0-9]{1,3})\s*(?(brace)\})"
)
_TWO_NUMBERS = re.compile(r"[0-9]\s+[.0-9]")
_POWER = r"\s*[})]*\s*(?:\^|\*\*)\s*[{(]*\s*-?\s*"
_HUGE = (
    re.compile(rf"[0-9]{_POWER}[0-9]+{_POWER}[0-9]"),  # 10^10^10
    re.compile(r"(?:\^|\*\*)\s*[{(]*\s*-?\s*[0-9]{5,}"),  # 7^{100000}
    re.compile(r"[0-9]{4,}\s*[)}]*\s*!|!\s*[)}]*\s*!\s*[)}]*\s*!"),  # 9999!, 9!!!
)
_BOLD = re.compile(r"\*\*([^*]+)\*\*")
_NOUNS = (  # no word that makes another value of the number: a conjunction, a function, a name of a quantity
    r"(?!(?:[A-Za-z]+ )*(?i:and|as|but|if|is|not|or|than|to|sqrt|mod|log|ln|exp|(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?"
    r"|alpha|beta|gamma|delta|epsilon|theta|lambda|mu|pi|rho|sigma|tau|phi|psi|omega|inf|infinity)\b)"
)
_WORDS_BEHIND = re.compile(rf"\$(?P<formula>[^$]+)\$ ?(?P<words>{_NOUNS}[A-Za-z]{{2,}}(?: [A-Za-z]+){{0,3}})")
_UNIT = r"(?:[cdkm]m|ft|in|yd|mi|kg|mg|lb|oz|m[lL]|hr|[A-Za-z]{3,})"
_UNITS_BEHIND = re.compile(
    r"(?P<number>[-+]?[0-9.,/]*[0-9]) ?"
    rf"{_NOUNS}(?:{_UNIT}(?: {_UNIT}){{0,2}}(?:\^\{{?[23]\}}?)?|[ms]\^\{{?[23]\}}?|(?:[ckm]?m|{_UNIT})/(?:s|h|{_UNIT}))"
)
_OR = re.compile(r"(?<![a-zA-Z\\]) ?\bor\b(?! ?\})")
_RELATION = re.compile(r"[<>]|\\[lg](?:e|t|eq|eqslant)(?![a-zA-Z])")
_LETTERS = re.compile(r"[A-Z]{3,}")
_COMMA = re.compile(r", ?")
_SPACES = re.compile(r"(?<!\\)\\[,;:! ]|\\q?quad(?![a-zA-Z])|~|\s+")
_STYLE = re.compile(r"\\(?:left|right|displaystyle|mathrm|mathbf|text|textbf|mathit|operatorname)(?![a-zA-Z])")


def unspaced(text: str) -> str:
    """LaTeX's spaces as plain ones, and none in a number: ``12\\,345`` is 12345, ``12{,}345`` is 12,345."""
    return _SPACE.sub(" ", _NO_SPACE.sub("", text.replace("{,}", ",")))


def clean(text: str) -> str:
    """One formula without its delimiters, closing full stop and typographic signs: ``"$ 3×4 $."`` is ``3\\times 4``.

    Several formulas (``$3$ and $4$``) become a list; ``4.5e33``, ``3 1/2``, ``1\\,000``, ``\\log_2 3`` and
    ``0.\\overline{3}`` get a form that is read as they are meant.
    """
    if len(text) > MAX_LENGTH:
        return text  # it will be refused; and a megabyte need not be searched
    plain = " ".join(_ROOT_OF_DIGITS.sub(r"\\sqrt{\1}", unspaced(text.translate(_SYMBOLS))).split())
    plain = _REPEATING.sub(_as_fraction, _ONE_DIGIT.sub(r"\1{\2}", _TWO_DIGITS.sub(r"\1{\2}{\3}", plain)))
    plain = _BETWEEN_FORMULAS.sub(", ", plain).replace(r"\varnothing", r"\emptyset")
    for opening, closing in _DELIMITERS:
        plain = plain.strip()
        plain = plain[:-1].rstrip() if plain.endswith(".") and not plain.endswith("..") else plain
        if found := _BOLD.fullmatch(plain):
            plain = found[1]
        if found := _WORDS_BEHIND.fullmatch(plain):
            plain = rf"{found['formula']}\text{{ {found['words']}}}"
        if plain.startswith(opening) and plain.endswith(closing) and len(plain) >= len(opening) + len(closing):
            plain = plain[len(opening) : -len(closing)]
    plain = plain.replace(r"\$", " ").replace("**", "^").strip()
    if plain.count("$") == 1:
        plain = plain.strip("$ ")  # a currency, or a delimiter whose other half is lost
    if found := _SCIENTIFIC.fullmatch(plain):
        return rf"{found['digits']} \times 10^{{{found['power']}}}"
    if found := _MIXED.fullmatch(plain):
        return rf"{found['sign']}{found['whole']}\frac{{{found['over']}}}{{{found['under']}}}"
    if _RELATION.search(plain):
        plain = _OR.sub(r" \\text{ or }", plain)
    return plain.replace(" ", "") if _SPACED_THOUSANDS.fullmatch(plain) else plain


def _as_fraction(found: re.Match[str]) -> str:
    """A repeating decimal: ten to the digits of its cycle, less 1, divides what they repeat."""
    once = found["whole"].replace(",", "") + found["once"]
    cycle = found["cycle"] or found["digit"]
    over = int(once + cycle) - int(once or "0")
    return rf"\frac{{{over}}}{{{10 ** len(found['once']) * (10 ** len(cycle) - 1)}}}"


def in_one_form(gold: str, answer: str) -> tuple[str, str]:
    """Two cleaned texts as the gold lets the answer be read: units and words behind the value of a number are no
    factors, and what the gold lists are no thousands: ``100,200`` for ``100, 200``. Numerals are in one base."""
    gold, answer = _in_one_base(gold, answer)
    if read_number(gold) is not None and (found := _UNITS_BEHIND.fullmatch(answer)):
        answer = found["number"] + r"\text{" + re.sub("[^A-Za-z]+", " ", answer[found.end("number") :]) + "}"
    if (", " in gold or r"\{" in gold) and len(_COMMA.split(gold)) == len(_COMMA.split(answer)) > 1:
        gold, answer = _COMMA.sub(", ", gold), _COMMA.sub(", ", answer)
    return gold, answer


def letters(text: str) -> str:
    """The capital letters, three or more, that a cleaned text is; empty where it is something else."""
    plain = _STYLE.sub("", _SPACES.sub("", text)).replace("{", "").replace("}", "")
    return plain if _LETTERS.fullmatch(plain) else ""


def _in_one_base(gold: str, answer: str) -> tuple[str, str]:
    """Two cleaned texts with the values of numerals that name their base: ``110_2`` is 6. Where the answer names none,
    the gold's base is taken to be meant, and its digits alone are left."""
    read = _value_of if _NUMERAL.search(answer) else _digits_of
    return _NUMERAL.sub(read, gold), _NUMERAL.sub(read, answer)


def _value_of(found: re.Match[str]) -> str:
    part = found["part"] or ""
    base = _BASES.index(found["base"]) + 2 if found["base"] in _BASES else int(found["base"])
    try:
        value = Fraction(int(found["whole"] + part, base or 1), base ** len(part))
    except ValueError:  # 9_7 has no value
        return rf"\text{{{found[0]}}}"
    return str(value) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _digits_of(found: re.Match[str]) -> str:
    return found["whole"] + (f".{found['part']}" if found["part"] else "")


def refuse(text: str) -> str:
    """Why no formula is read from a cleaned text; empty when one may be."""
    if not text:
        return "empty"
    if len(text) > MAX_LENGTH:
        return f"{len(text)} characters, more than {MAX_LENGTH}"
    if any(unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs") for c in text):
        return "invisible characters"
    if any(not c.isascii() and (c.isnumeric() or unicodedata.category(c) in ("Nd", "No")) for c in text):
        return "digits of another script"
    if re.search(rf"[0-9]{{{MAX_DIGITS + 1}}}", text):
        return f"a number of more than {MAX_DIGITS} digits"
    if any(huge.search(text) for huge in _HUGE):
        return "a number too large to compute"
    if re.search(r"(?<!\\)\$", text):
        return "more than one formula, or text around it"
    if _TWO_NUMBERS.search(text):
        return "numbers side by side"
    depth = deepest = 0
    for c in text:
        depth += (c in "([{") - (c in ")]}")
        deepest = max(deepest, depth)
    return f"brackets nested {deepest} deep" if deepest > MAX_DEPTH else ""


def read_number(text: str) -> Fraction | None:
    """The exact value of a cleaned text that is a number and nothing else: ``1,250``, ``-0.5``, ``3/4``,
    ``\\frac{3}{4}``, ``1.6 \\times 10^{-19}``."""
    if len(text) > MAX_DIGITS:
        return None
    if found := _POWER_OF_TEN.fullmatch(text):
        digits = Fraction(found["digits"] or 1) * (-1 if found["sign"] == "-" else 1)
        return digits * Fraction(10) ** int(found["power"])
    found = _NUMBER.fullmatch(text)
    if not found:
        return None
    sign = -1 if found["sign"] == "-" else 1
    if found["decimal"]:
        return sign * Fraction(found["decimal"].replace(",", ""))
    over, under = int(found["over"] or found["above"]), int(found["under"] or found["below"])
    return sign * Fraction(over, under) if under else None


def vote_key(answer: str) -> str | None:
    """What a majority vote counts as one answer: an exact number where it is one (``1/2``, ``0.5`` and
    ``\\frac{1}{2}`` vote together), else the formula without spaces and styles. What is refused abstains.

    No algebra is done: ``2+x`` and ``x+2`` are two answers, so a vote may be split, but never joined wrongly.
    """
    text = clean(answer)
    if refuse(text):
        return None
    number = read_number(text)
    if number is not None:
        return str(number)
    return _STYLE.sub("", _SPACES.sub("", text.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac")))
