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
_NUMBER = r"-?\d{1,15}"
_EQUATION = re.compile(rf"(?<![\d+*/=-])\s*({_NUMBER}(?:\s*[-+*/]\s*\d{{1,15}})+)\s*=\s*({_NUMBER})(?![\d.])")
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
    """Whether every ``a op b ... = c`` in ``text`` is right, products before sums; ``None`` where there is none."""
    found = _EQUATION.findall(_NUMBERING.sub("", text))
    return all(_value(left) == int(right) for left, right in found) if found else None


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
