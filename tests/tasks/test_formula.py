"""A formula as text: what is made plain, what is refused, what is an exact number, what votes together."""

from __future__ import annotations

from fractions import Fraction

import pytest

from aha.tasks.formula import MAX_LENGTH, clean, read_number, refuse, vote_key


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("$ 3×4 $.", r"3\times 4"),
        (r"\(x\)", "x"),
        (r"\[ x \]", "x"),
        ("$$x$$", "x"),
        ("x.", "x"),
        ("5...", "5..."),
        ("$3$ and $4$", "3, 4"),
        ("$3$,$4$", "3, 4"),
        (r"\$5", "5"),
        ("$5", "5"),
        ("4.5e33", r"4.5 \times 10^{33}"),
        ("-2E-7", r"-2 \times 10^{-7}"),
        ("3 1/2", r"3\frac{1}{2}"),
        ("1 000 000", "1000000"),
        (r"12\,345", "12345"),
        (r"x = 12\,345.678\,901\text{ m}", r"x = 12345.678901\text{ m}"),
        (r"12\ 345", "12345"),
        (r"12~345", "12345"),
        (r"12\!345", "12345"),
        (r"12,\!345", "12,345"),
        ("12{,}345", "12,345"),
        ("2,{}4", "2, 4"),
        (r"3\ 1/2", r"3\frac{1}{2}"),
        (r"\frac 1 2", r"\frac{1}{2}"),
        (r"\dfrac1 2", r"\dfrac{1}{2}"),
        (r"\binom 5 2", r"\binom{5}{2}"),
        (r"2\log_2 3", r"2\log_{2} 3"),
        ("2^3 5", "2^{3} 5"),
        (r"\sqrt 2 3", r"\sqrt{2} 3"),
        (r"0.\overline{3}", r"\frac{3}{9}"),
        (r"-1,234.5\bar6", r"-\frac{111111}{90}"),
        (r".\overline{142857}", r"\frac{142857}{999999}"),
        (r"\overline{AB}", r"\overline{AB}"),
        (r"a\quad b\!c\!2", "a b c2"),
        (r"1 \\ 2 \\, 3", r"1 \\ 2 \\, 3"),
        ("2**3", "2^3"),
        ("√12", r"\sqrt{12}"),
        ("−5", "-5"),
        ("a\n b", "a b"),
    ],
)
def test_clean(text: str, plain: str) -> None:
    assert clean(text) == plain
    assert refuse(plain) == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("x" * (MAX_LENGTH + 1), "characters"),
        ("7\u200b", "invisible"),
        ("7\x00", "invisible"),
        ("７", "another script"),
        ("1" * 301, "more than 300 digits"),
        ("10^{10^{10}}", "too large"),
        ("(10^9)^9", "too large"),
        ("7^{100000}", "too large"),
        ("12345!", "too large"),
        ("9!!!", "too large"),
        ("3 4", "side by side"),
        ("3 .4", "side by side"),
        (r"\frac 1 23", "side by side"),
        ("110_2 3", "side by side"),
        (r"5 0.\overline{3}", "side by side"),
        *((f"12{space}5", "side by side") for space in (r"\,", r"\ ", r"\;", r"\:", "~", r"\quad ", "{ }", "{}")),
        ("$3$ or so", "more than one formula"),
        ("(" * 21, "nested 21 deep"),
    ],
)
def test_refuse(text: str, why: str) -> None:
    assert why in refuse(clean(text))
    assert vote_key(text) is None


@pytest.mark.parametrize("text", ["x^2+1", "2^{2023}", "e^{x^2}", "x^{2^{n}}", "20!", r"\{1, 2\}", "1, 2", "((((5))))"])
def test_what_people_write_is_not_refused(text: str) -> None:
    assert refuse(clean(text)) == ""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,250.50", Fraction(2501, 2)),
        ("-.5", Fraction(-1, 2)),
        ("+7", Fraction(7)),
        ("007", Fraction(7)),
        ("6/8", Fraction(3, 4)),
        (r"-\frac{6}{8}", Fraction(-3, 4)),
        ("1,25", None),
        ("1/0", None),
        ("5%", None),
        ("1e3", None),
        ("5.", None),
        ("x", None),
    ],
)
def test_numbers(text: str, value: Fraction | None) -> None:
    assert read_number(text) == value


def test_equal_numbers_and_equal_spellings_vote_together() -> None:
    assert {vote_key(t) for t in ("0.5", "$1/2$", r"\frac{1}{2}", r"\dfrac{2}{4}", ".50")} == {"1/2"}
    assert vote_key(r"\left( 1 ,\, 2 \right)") == vote_key("(1,2)")
    assert vote_key("2+x") != vote_key("x+2")
    assert vote_key(r"\text{even}") == vote_key("{even}")
