"""One number is read exactly; two numbers, other scripts and formulas are no answer."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest

from aha.records import Problem
from aha.tasks import number


def ask(gold: str) -> Problem:
    return Problem("n", "how many ?", gold, "number")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", Fraction(5)),
        ("$1,250.50", Fraction(2501, 2)),
        ("1,234,567 apples", Fraction(1234567)),
        ("The answer is 5.", Fraction(5)),
        ("5.0", Fraction(5)),
        (".5", Fraction(1, 2)),
        ("1/2", Fraction(1, 2)),
        ("-3", Fraction(-3)),
        ("−3", Fraction(-3)),
        ("-$3", Fraction(-3)),
        ("$-3", Fraction(-3)),
        ("007", Fraction(7)),
        ("25 m²", Fraction(25)),
        ("50%", Fraction(50)),
        ("\u20115", Fraction(-5)),
        ("⁻5", Fraction(-5)),
        ("**5**", Fraction(5)),
        ("x = -5", Fraction(-5)),
        ("US$5", Fraction(5)),
        ("\\boxed{5}", Fraction(5)),
        ("a 5-mile walk", Fraction(5)),
        ("5^\\circ", Fraction(5)),
        ("\\boxed{1{,}234}", Fraction(1234)),
        ("2,\\!500", Fraction(2500)),
        ("2\\,500\\,000", Fraction(2500000)),
        ("5\\,\\text{cm}", Fraction(5)),
        ("5\\text{ m}^2", Fraction(5)),
        ("5 m^2", Fraction(5)),
        ("9.8 m/s^{2}", Fraction(49, 5)),
        ("5 km", Fraction(5)),
        ("5千克", Fraction(5)),
        ("=> 5", Fraction(5)),
        ("\\left(5\\right)", Fraction(5)),
        ("<b>5</b>", Fraction(5)),
        ("\\frac{1}{2}", Fraction(1, 2)),
        ("$-\\frac34$", Fraction(-3, 4)),
        ("\\approx 5\\,\\mathrm{kg}", Fraction(5)),
    ],
)
def test_one_number_is_read(text: str, value: Fraction) -> None:
    assert number.parse_number(text) == value


HOSTILE = [
    "", " ", "five", "5 or 6", "5, 6", "1e5", "9**9**9", "5!=6", "1/0", "5/0", "10^6", "1 1/2", "0.5.5", "1,2",
    "٥", "４", "4２", "5²", "5½", "½", "- 5", "[5, 6]", "\\frac{5}{x}", "5" * 201, "5\n6", "5 " * 90, "0x5f", "1_000",
    "minus 5", "Negative 5", "not 5", "5 or six", "负5", "5!", "√25", "\\sqrt{25}", "±5", "≠5", "x-5", "--5", "-(5)",
    "-**5**", "-\\$5", "x*5", "(x)*5", "5*x", "5-x", "5**x", "5^x", "5^{x}", "x^5", "12\\,5", "12\\quad 5", "12\\ 345",
    "5 million", "$5 million", "5\\text{ thousand}", "5k", "5M", "2.5 dozen eggs", "5万", "5 Milliarden",
    "5 and a half", "<5", "x > 5", "5+", "≥5", "\\leq 5", "5 x^2", "5 m^4", "5<br>6",
    "5\\pi", "\\log 5", "5 \\div x", "5n+n", "5 \\times",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_anything_else_is_no_number(text: str) -> None:
    assert number.parse_number(text) is None
    assert number.vote_key(text) is None
    for gold in ("5", "6", "25", "1000", "2", "-5"):
        assert not number.is_correct(ask(gold), text)


def test_the_sign_counts() -> None:
    for wrong in ("-5", "−5", "\u20105", "\u20115", "⁻5", "$-5", "-$5"):
        assert not number.is_correct(ask("5"), wrong)
        assert number.is_correct(ask("-5"), wrong)


def test_a_decimal_is_not_its_last_digit() -> None:
    assert not number.is_correct(ask("5"), ".5")
    assert number.is_correct(ask("0.5"), ".5")


def test_equal_values_are_right_and_one_vote_however_written() -> None:
    texts = ["1250.5", "$1,250.50", "2501/2"]
    assert all(number.is_correct(ask("1,250.50"), text) for text in texts)
    assert len({number.vote_key(text) for text in texts}) == 1


def test_a_gold_that_is_no_number_accepts_nothing() -> None:
    assert not number.is_correct(ask("none"), "none")


def test_long_text_takes_no_time() -> None:
    started = time.perf_counter()
    assert number.parse_number("9" * 1_000_000) is None
    assert number.parse_number("1," * 99) is None
    assert time.perf_counter() - started < 0.5


def test_generated_problems_state_their_result() -> None:
    for a in range(1, 100, 7):
        for b in range(1, 100, 5):
            assert number.is_correct(number.addition(a, b), str(a + b))
            assert not number.is_correct(number.addition(a, b), str(a + b + 1))
            assert number.is_correct(number.product(a, b), str(a * b))
    assert [number.addition(a, b).meta["level"] for a, b in ((1, 1), (1, 20), (20, 1), (20, 20))] == [1, 2, 2, 3]
