"""Countdown: ``make 25 from 20 7 2``: combine all the numbers, each once, into the target.

The checker takes any expression with ``+ - * /`` and brackets. The toy generator makes instances that plus and minus in
the given order solve, in exactly one way, so that a search over signs finds it: there a model that notices a wrong
total and tries again earns more than one that answers at once, and response length can grow because checking pays.
"""

from __future__ import annotations

import ast
import itertools
import random
import re
from collections import Counter
from fractions import Fraction

from aha.records import Problem
from aha.tasks.words import say

MAX_EXPRESSION_LENGTH = 200
_PLAIN = re.compile(r"[0-9+\-*/() ]+")


def generate(rng: random.Random, *, language: str, count: int = 3) -> Problem:
    """One problem with ``count`` numbers: the first is large enough that no partial result is negative."""
    while True:
        rest = [rng.randint(1, 9) for _ in range(count - 1)]
        first = rng.randint(sum(rest) + 1, 40)
        totals = [evaluate_signs(first, rest, signs) for signs in sign_choices(count)]
        target = rng.choice(totals)
        if totals.count(target) == 1:
            break
    numbers = " ".join(str(n) for n in [first, *rest])
    signs = next(s for s in sign_choices(count) if evaluate_signs(first, rest, s) == target)
    return Problem(
        id=problem_id([first, *rest], target),
        prompt=say(f"make {target} from {numbers}", language),
        answer=expression([first, *rest], signs),
        task="countdown",
        language=language,
        meta={"numbers": [first, *rest], "target": target},
    )


def problem_id(numbers: list[int], target: int) -> str:
    """``countdown/2 7 20/25``: the same in both languages and for every order of the numbers."""
    return f"countdown/{' '.join(map(str, sorted(numbers)))}/{target}"


def sign_choices(count: int) -> list[tuple[str, ...]]:
    """All signs between ``count`` numbers, in the order a patient search tries them."""
    return list(itertools.product("+-", repeat=count - 1))


def evaluate_signs(first: int, rest: list[int], signs: tuple[str, ...]) -> int:
    return first + sum(n if sign == "+" else -n for n, sign in zip(rest, signs, strict=True))


def expression(numbers: list[int], signs: tuple[str, ...]) -> str:
    return " ".join([str(numbers[0])] + [f"{sign} {n}" for sign, n in zip(signs, numbers[1:], strict=True)])


def attempt(numbers: list[int], signs: tuple[str, ...]) -> str:
    """One written try with its partial totals: ``20 + 7 = 27 - 2 = 25``."""
    total, words = numbers[0], str(numbers[0])
    for sign, n in zip(signs, numbers[1:], strict=True):
        total += n if sign == "+" else -n
        words += f" {sign} {n} = {total}"
    return words


def clean_thought(numbers: list[int], target: int, language: str) -> str:
    """Search over signs in a fixed order, each total compared with the target, until one fits."""
    sentences = []
    for signs in sign_choices(len(numbers)):
        fits = evaluate_signs(numbers[0], numbers[1:], signs) == target
        sentences.append(f"try {attempt(numbers, signs)} {'yes' if fits else 'no'} .")
        if fits:
            break
    return say(" ".join(sentences), language)


def value_of(text: str) -> tuple[Fraction, Counter[int]] | None:
    """Exact value and the multiset of numbers used; ``None`` when ``text`` is not a plain arithmetic expression.

    Only digits, ``+ - * /``, brackets and spaces are read: Python's other spellings of a number (``0x14``, ``2_0``) and
    its comments never reach the parser.
    """
    text = text.strip()
    if len(text) > MAX_EXPRESSION_LENGTH or not _PLAIN.fullmatch(text):
        return None
    try:
        tree = ast.parse(text, mode="eval")
        numbers: Counter[int] = Counter()
        return _value(tree.body, numbers), numbers
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr, numbers: Counter[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        numbers[node.value] += 1
        return Fraction(node.value)
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, numbers), _value(node.right, numbers)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Div):
            return left / right
    raise ValueError("not a plain arithmetic expression")


def is_correct(problem: Problem, answer: str) -> bool:
    """Uses every number exactly once and equals the target, exactly."""
    found = value_of(answer)
    return found is not None and found[0] == problem.meta["target"] and found[1] == Counter(problem.meta["numbers"])


def vote_key(answer: str) -> str | None:
    """Expressions are one answer when they are the same text but for spaces; what does not parse abstains."""
    return "".join(answer.split()) if value_of(answer) is not None else None
