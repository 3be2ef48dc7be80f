"""Saying the same again: a penalty on repeated n-grams, and the loop at the end of a completion. Both take linear time.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass


def repeated_ngrams(items: Sequence[Hashable], *, n: int = 3) -> float:
    """``1 - different n-grams / all n-grams`` of words or token ids, in [0, 1); 0 where there are fewer than ``n``."""
    if n < 1:
        raise ValueError(f"{n}-grams")
    total = len(items) - n + 1
    if total < 1:
        return 0.0
    return 1 - len({tuple(items[i : i + n]) for i in range(total)}) / total


def ngram_penalty(text: str, *, n: int = 3, max_penalty: float = -1.0) -> float:
    """``max_penalty`` times :func:`repeated_ngrams` of the words between white space, in lower case.

    Open-R1's repetition penalty (n 3, max_penalty -1). Text without spaces is one word: for such languages count
    n-grams of token ids. Digits in columns repeat honestly, so give it a small weight where working is written out.
    """
    if max_penalty > 0:
        raise ValueError(f"max_penalty={max_penalty} would pay for repetition")
    return max_penalty * repeated_ngrams(text.lower().split(), n=n)


@dataclass(frozen=True, slots=True)
class Loop:
    """A sequence that ends in a loop: ``Loop(period=3, length=14)`` says that each of the last 14 items but the first
    3 equals the one 3 places before it."""

    period: int
    length: int


def tail_loop(token_ids: Sequence[int], *, min_rounds: int = 3) -> Loop | None:
    """The longest end of ``token_ids`` that is one block over and over, at least ``min_rounds`` whole times; the
    shortest block where several tell the same. ``None`` without one.

    Take an end token off first: a loop that was left is none at the end. Linear time, by the Z function of the
    reversed sequence: ``z[p]`` items agree with those ``p`` places on, so the last ``p + z[p]`` have period ``p``.
    """
    if min_rounds < 2:
        raise ValueError(f"{min_rounds} rounds are no loop")
    agree = _z_function(token_ids[::-1])
    loops = [Loop(p, p + agree[p]) for p in range(1, len(token_ids) // min_rounds + 1)]
    return max((loop for loop in loops if loop.length >= min_rounds * loop.period), key=_covered, default=None)


def repetition_rate(token_ids: Sequence[int], *, min_rounds: int = 3) -> float:
    """The share of the tokens that are in the loop at the end, in [0, 1]; 0 without a loop. A metric, no reward."""
    loop = tail_loop(token_ids, min_rounds=min_rounds)
    return loop.length / len(token_ids) if loop else 0.0


def _covered(loop: Loop) -> tuple[int, int]:
    return loop.length, -loop.period


def _z_function(items: Sequence[int]) -> list[int]:
    """``z[i]``: how many items from ``i`` on equal those from 0 on (Gusfield 1997, section 1.4); ``z[0]`` is 0."""
    z = [0] * len(items)
    left = right = 0  # items[left:right] is the match that reaches furthest
    for i in range(1, len(items)):
        k = min(z[i - left], right - i) if i < right else 0
        while i + k < len(items) and items[k] == items[i + k]:
            k += 1
        z[i] = k
        if i + k > right:
            left, right = i, i + k
    return z
