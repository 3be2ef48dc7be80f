"""Chain sums: ``what is 12 + 5 - 3 + 8 ?``, three to seven terms, every partial result kept in 0..99.

A guess is almost never right; a model that writes every partial result almost always is, so longer thinking earns more.
"""

from __future__ import annotations

import random

from aha.records import Problem
from aha.tasks.words import say

MIN_TERMS, MAX_TERMS = 3, 7
LIMIT = 99


def generate(rng: random.Random, *, language: str) -> Problem:
    """One problem; its id is the expression, so the same sum in two languages falls on the same side of a split."""
    terms = rng.randint(MIN_TERMS, MAX_TERMS)
    total = rng.randint(1, 20)
    words = [str(total)]
    for _ in range(terms - 1):
        operand = rng.randint(1, 9)
        minus = total - operand >= 0 and (rng.random() < 0.5 or total + operand > LIMIT)
        total += -operand if minus else operand
        words += ["-" if minus else "+", str(operand)]
    expression = " ".join(words)
    return Problem(
        id=f"chain/{expression}",
        prompt=say(f"compute {expression}", language),
        answer=str(total),
        task="chain",
        language=language,
        meta={"expression": expression},
    )


def reduced(expression: str) -> str:
    """The expression with its first operation done: ``reduced("12 + 5 - 3") == "17 - 3"``."""
    first, operator, second, *rest = expression.split()
    value = int(first) + int(second) if operator == "+" else int(first) - int(second)
    return " ".join([str(value), *rest])


def steps(expression: str) -> list[str]:
    """What is left after each operation, left to right: ``steps("12 + 5 - 3") == ["17 - 3", "14"]``."""
    result = []
    while " " in expression:
        expression = reduced(expression)
        result.append(expression)
    return result


def clean_thought(expression: str, language: str) -> str:
    """The readable style of the cold start: what is left after each operation, one a sentence, in one language."""
    sentences = [f"{'first' if i == 0 else 'then'} = {left} ." for i, left in enumerate(steps(expression))]
    return say(" ".join(sentences), language)


def is_correct(problem: Problem, answer: str) -> bool:
    """The answer is one whole number equal to the gold."""
    text = answer.strip()
    return text.isascii() and text.isdigit() and int(text) == int(problem.answer)


def vote_key(answer: str) -> str | None:
    """What a majority vote counts as one answer; ``None`` abstains."""
    text = answer.strip()
    return str(int(text)) if text.isascii() and text.isdigit() else None
