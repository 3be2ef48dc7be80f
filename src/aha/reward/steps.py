"""Rule rewards of the steps of a written calculation, for process supervision without a process reward model.

A step ends at a line's end, at a full stop, or where the thinking ends. It earns 1 when every equation in it holds, 0
when one does not; the last step, with the answer, earns the reward of the outcome.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

_END = re.compile(r"\n+|\.(?=\s|$)|</think>")
_NUMBER = r"-?\d{1,15}"
_EQUATION = re.compile(rf"(?<![\d+*/=-])\s*({_NUMBER}(?:\s*[-+*/]\s*\d{{1,15}})+)\s*=\s*({_NUMBER})(?![\d.])")
_TERM = re.compile(r"([-+*/]?)\s*(\d+)")


def step_rewards(token_texts: Sequence[str], outcome: float) -> list[tuple[int, float]]:
    """``(index of its last token, reward)`` of each step of a completion whose tokens read ``token_texts``.

    Steps without an equation do not count: what a policy writes between them is judged by what it leads to.
    """
    text = "".join(token_texts)
    token_of = [index for index, piece in enumerate(token_texts) for _ in piece]
    steps: dict[int, float] = {}
    start = 0
    for match in _END.finditer(text):
        verdict = equations_hold(text[start : match.start()])
        start = match.end()
        if verdict is not None:
            steps[token_of[match.end() - 1]] = float(verdict)
    if token_texts:
        steps[len(token_texts) - 1] = outcome
    return sorted(steps.items())


def step_ends(pieces: Sequence[str]) -> tuple[int, ...]:
    """Index of the last token of each step of a text whose tokens add ``pieces``; the last token ends a step, too."""
    token_of = [index for index, piece in enumerate(pieces) for _ in piece]
    ends = {token_of[match.end() - 1] for match in _END.finditer("".join(pieces))}
    return tuple(sorted(ends | {len(pieces) - 1})) if pieces else ()


def equations_hold(text: str) -> bool | None:
    """Whether every ``a op b ... = c`` in ``text`` is right, products before sums; ``None`` where there is none."""
    found = _EQUATION.findall(text)
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
