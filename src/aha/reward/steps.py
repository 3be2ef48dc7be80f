"""Rule rewards of the steps of a written calculation, for process supervision without a process reward model.

A step ends at a line's end, at a full stop, or where the thinking ends. It earns 1 when every equation in it holds, 0
when one does not; the last step, with the answer, earns the reward of the outcome.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate

_END = re.compile(r"\n+|\.(?=\s|$)|</think>")
_EQUATION = re.compile(
    r"(?<![A-Za-z0-9_.,²³)\]}!%^+*/-])(?<![0-9xX] )"  # no part of x*3+1=10, and no half of 3 1/2
    r"(-?\d{1,15}(?:[-+*/]\d{1,15})+(?:=-?\d{1,15}(?:[-+*/]\d{1,15})*)+)"
    r"(?![A-Za-z0-9_²³({\[!%°^+*/-]|[.,]\d| \d|\\[^)\]]|\s*\(?\\?[bp]?mod\b|\s*[Rr](?:em\w*)?\b)"  # nor 5x, 3 R 2
)
_SPACED = re.compile(r"(?<=\S)[^\S\n]*([-+*/^=%])[^\S\n]*")  # not the dash of a list
_TIMES = re.compile(r"\\times(?![a-z])|\\cdot(?![a-z])|[×·⋅]|(?<=\d)\s*[xX]\s*(?=\d)")
_MINUS_SIGNS = str.maketrans("\u2013\u2212", "--")
_DIVIDED = re.compile(r"\\div(?![a-z])|÷")
_NUMBERING = re.compile(r"#\d+\s*")  # "12 #1 + 5" is 12 + 5: operations may be numbered, as the chain sums' are
_TERM = re.compile(r"([-+*/]?)\s*(\d+)")


def step_rewards(pieces: Sequence[str], outcome: float) -> list[tuple[int, float]]:
    """``(index of its last token, reward)`` of each step of a completion whose tokens add ``pieces``, spaces included.

    Steps without an equation do not count: what a policy writes between them is judged by what it leads to.
    """
    text = "".join(pieces)
    steps: dict[int, float] = {}
    start, last = 0, len(pieces) - 1
    for token, end in _ends(pieces):
        verdict = equations_hold(text[start:end])
        start = end
        if verdict is not None:
            steps[token] = float(verdict)
    if pieces:
        steps[last] = outcome
    return sorted(steps.items())


def step_ends(pieces: Sequence[str]) -> tuple[int, ...]:
    """Index of the last token of each step of a text whose tokens add ``pieces``; the last token ends a step, too."""
    return tuple(sorted({token for token, _ in _ends(pieces)} | {len(pieces) - 1})) if pieces else ()


def _ends(pieces: Sequence[str]) -> list[tuple[int, int]]:
    """The token and the place in the text where each step ends."""
    ends = list(accumulate(map(len, pieces)))
    return [(bisect_left(ends, match.end()), match.end()) for match in _END.finditer("".join(pieces))]


def equations_hold(text: str) -> bool | None:
    """Whether every ``a op b = c = ...`` in ``text`` is right, products before sums; ``None`` where there is none.

    What is part of more, with brackets, letters, powers or decimals, is no equation here: ``x * 3 + 1 = 10``.
    """
    if "=" not in text:
        return None
    plain = _DIVIDED.sub("/", _TIMES.sub("*", _NUMBERING.sub("", text.translate(_MINUS_SIGNS))))
    found = [equation.split("=") for equation in _EQUATION.findall(_SPACED.sub(r"\1", plain))]
    return all(_all_equal([_value(side) for side in sides]) for sides in found) if found else None


def _all_equal(values: Sequence[Fraction | None]) -> bool:
    return None not in values and len(set(values)) == 1


def _value(expression: str) -> Fraction | None:
    """Of whole numbers with + - * /, read from left to right; ``None`` for a division by zero."""
    total, product = Fraction(0), Fraction(0)
    for sign, digits in _TERM.findall(expression.strip()):
        number = Fraction(int(digits))
        if sign == "/" and not number:
            return None
        if sign in ("*", "/"):
            product = product * number if sign == "*" else product / number
        else:
            total, product = total + product, -number if sign == "-" else number
    return total + product
