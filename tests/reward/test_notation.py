"""Notation is found as people write it, and broken notation takes no long time."""

from __future__ import annotations

import time

import pytest

from aha.reward.notation import without_notation


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a $x$ b", "a b"), ("a $$x\n+ y$$ b", "a b"), (r"a \(x\) b", "a b"), (r"a \[x \\ y\] b", "a b"),
        ("a `x` b", "a b"), ("a\n```py\n$5 `\n```\nb", "a b"), (r"\boxed{\frac{a}{b^{c}}} d", "d"),
        (r"\begin{align} u \end{align}", "u"), (r"\alpha and \frac{a}{b}", "and"),
        ("$5 and $6", "$5 and $6"), ("a $x", "a $x"), ("a ` b", "a ` b"), (r"C:\ x", r"C:\ x"),
        (r"\(x \(y\) z", r"\(x z"), ("5 $ and 6 $ x", "5 $ and 6 $ x"), ("", ""),
    ],
)  # fmt: skip
def test_what_is_left(text: str, left: str) -> None:
    assert " ".join(without_notation(text).split()) == left


@pytest.mark.parametrize("piece", ["$", "$$", "`", "```", r"\(", r"\[", r"\boxed{", "$a ", r"\a{b{c", r"\(a", "$$a$"])
def test_broken_notation_takes_no_long_time(piece: str) -> None:
    started = time.perf_counter()
    without_notation(piece * 50_000)
    without_notation(piece + "a" * 200_000 + "{" * 50_000)
    assert time.perf_counter() - started < 10
