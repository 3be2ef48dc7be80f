"""Chain sums: ``compute 12 #1 + 5 #2 - 3 #3 + 8``: two to five numbered operations, every partial result kept in 0..99.

A guess is almost never right; a model that writes every partial result almost always is, so longer thinking earns more.
"""

from __future__ import annotations

import random

from aha.records import Problem
from aha.tasks.words import say

MIN_TERMS, MAX_TERMS = 3, 6
LIMIT = 99
MAX_DIGITS = 20  # int() raises over 4,300


def generate(rng: random.Random, *, language: str) -> Problem:
    """One problem; its id is the expression, so the same sum in two languages falls on the same side of a split."""
    terms = rng.randint(MIN_TERMS, MAX_TERMS)
    total = rng.randint(1, 20)
    words = [str(total)]
    for number in range(1, terms):
        operand = rng.randint(1, 9)
        minus = total - operand >= 0 and (rng.random() < 0.5 or total + operand > LIMIT)
        total += -operand if minus else operand
        words += [f"#{number}", "-" if minus else "+", str(operand)]
    expression = " ".join(words)
    return Problem(
        id=f"chain/{expression}",
        prompt=say(f"compute {expression}", language),
        answer=str(total),
        task="chain",
        language=language,
        meta={"expression": expression},
    )


def steps(expression: str) -> list[tuple[int, str, str, int, int]]:
    """In order: ``steps("12 #1 + 5 #2 - 3") == [(12, "#1", "+", 5, 17), (17, "#2", "-", 3, 14)]``."""
    words = expression.split()
    total, result = int(words[0]), []
    for number, operator, operand in zip(words[1::3], words[2::3], words[3::3], strict=True):
        value = total + int(operand) if operator == "+" else total - int(operand)
        result.append((total, number, operator, int(operand), value))
        total = value
    return result


def is_on_the_way(expression: str, thought: str) -> bool | None:
    """Whether the last total that ``thought`` states is the true one after the operation it numbers last, in any
    language; ``None`` before it states one. A mistake that was repaired is none."""
    totals = {number: value for _, number, _, _, value in steps(expression)}
    right = None
    for sentence in thought.split(" ."):
        _, stated, rest = sentence.rpartition(" = ")
        numbers = [word for word in sentence.split() if word in totals]
        if stated and numbers:
            right = rest.split()[:1] == [str(totals[numbers[-1]])]
    return right


def clean_thought(expression: str, language: str) -> str:
    """The readable style of the cold start: one operation a sentence, in one language."""
    sentences = [
        f"{'first' if i == 0 else 'then'} {a} {number} {op} {b} = {c} ."
        for i, (a, number, op, b, c) in enumerate(steps(expression))
    ]
    return say(" ".join(sentences), language)


def is_correct(problem: Problem, answer: str) -> bool:
    """The answer is one whole number equal to the gold."""
    key = vote_key(answer)
    return key is not None and key == vote_key(problem.answer)


def vote_key(answer: str) -> str | None:
    """What a majority vote counts as one answer; ``None`` abstains."""
    text = answer.strip()
    plain = text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS
    return str(int(text)) if plain else None
