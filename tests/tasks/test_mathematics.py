"""Our path to math-verify gives its verdicts, decides plain numbers as it would, and blames whom it should."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from math_verify import LatexExtractionConfig, parse, verify

from aha.records import Problem, Status
from aha.tasks import mathematics
from aha.tasks.mathematics import is_correct, judge_plain, verify_many
from aha.util.workers import Workers

EQUAL = [
    ("5", "5"), ("5", "+5"), ("5", "5.0"), ("-5", "-5"), ("1234567", "1,234,567"), ("0.5", ".5"), ("0.5", r"\frac12"),
    (r"\frac{1}{2}", "1/2"), (r"\frac{1}{2}", "0.5"), (r"\frac{1}{3}", "0.333333"), (r"-\frac{3}{4}", r"\frac{-3}{4}"),
    (r"\frac{3}{4}", r"\dfrac{6}{8}"), (r"1\frac{1}{2}", r"\frac{3}{2}"), (r"\sqrt{8}", r"2\sqrt{2}"), (r"\sqrt2",
    r"\sqrt{2}"),
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"), (r"2\pi", r"\pi \cdot 2"), ("x^2+1", "1+x^2"), ("(x+1)^2",
    "x^2+2x+1"),
    ("x(x-1)", "x^2-x"), (r"\frac{x}{2}", "0.5x"), (r"\{1,2\}", r"\{2,1\}"), ("1,2", "2, 1"), ("(1,2)",
    r"\left(1,2\right)"),
    ("(1,2,3)", "(1, 2, 3)"), ("[0,1)", r"\left[0, 1\right)"), (r"(-\infty, 3]", r"(-\infty,3]"), (r"(0,1)\cup(2,3)",
    r"(2,3)\cup(0,1)"),
    ("x=5", "5"), ("5", "x=5"), ("y=2x+1", "y=1+2x"), ("x>3", "3<x"), (r"x \ge 3", r"x \geq 3"), (r"50\%", "50%"),
    (r"50\%", "0.5"),
    (r"\text{even}", r"\text{even}"), (r"\text{(B)}", r"\text{(B)}"), (r"\pi", r"\pi"), ("e^2", "e^{2}"), ("2^{10}",
    "1024"),
    ("6-5i", "-5i+6"), (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"), ("10^{-3}",
    "0.001"),
    (r"\log 100", r"\log 100"), (r"\sin 30^\circ", r"\sin 30^\circ"), (r"45^\circ", "45"), (r"5\text{ cm}", "5"),
    (r"\$5", "5"),
    ("n!", "n!"), (r"\binom{5}{2}", "10"), ("3:4", r"\frac{3}{4}"), (r"\infty", r"\infty"), ("a+b", "b+a"),
    (r"\pm 5", r"\{5,-5\}"),
]  # fmt: skip
UNEQUAL = [
    ("5", "6"), ("5", "-5"), ("5", "5x"), ("0.5", "0.51"), (r"\frac{1}{3}", "0.33"), (r"\frac{1}{2}",
    r"\frac{2}{1}"), ("x^2+1", "x^2-1"),
    (r"\sqrt{2}", "1.41"), (r"\{1,2\}", r"\{1,2,3\}"), (r"\{1,2\}", "1"), ("1", r"\{1,2\}"), ("(1,2,3)", "(3,2,1)"),
    ("[0,1)", "[0,1]"),
    ("(0,1)", "[0,1]"), ("x=5", "y=6"), ("x>3", "x<3"), (r"\pi", "3.14"), ("6-5i", "6+5i"), (r"\text{even}",
    r"\text{odd}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"), ("2^{10}", "1023"), (r"(-\infty,3]",
    r"(-\infty,3)"),
]  # fmt: skip


def theirs(gold: str, answer: str) -> bool:
    """math-verify in this process, with no more of ours than the dollars around a formula."""
    golds, answers = (parse(f"${text}$", [LatexExtractionConfig()], parsing_timeout=None) for text in (gold, answer))
    return verify(golds, answers, timeout_seconds=None)


def test_the_verdicts_are_those_of_math_verify() -> None:
    pairs = EQUAL + UNEQUAL
    assert len(pairs) >= 60
    expected = [theirs(*pair) for pair in pairs]
    assert expected == [True] * len(EQUAL) + [False] * len(UNEQUAL)
    verdicts = verify_many(pairs)
    assert [v.status is Status.RIGHT for v in verdicts] == expected
    assert all(v.status is not Status.ERROR and v.score == float(v.status is Status.RIGHT) for v in verdicts)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("7", "3 4"),  # read as the mixed number 3 + 4
        ("2", "3 1/2"),
        ("17", r"12\quad 5"),
        ("6", r"1\ 5"),
        (r"10\,000", "0"),
        ("357", r"12\,345"),
        ("9", "10 = 9 or 9 9"),
        ("0.0000012", "0.000001"),  # equal after rounding to six decimals
        ("0.0000001", "0"),
        (r"\frac{1}{3}", r"\int_0^1 x^2 dx"),  # the question itself
        ("6", r"\sum_{k=1}^{3} k"),
        ("1", r"\lim_{x\to0}\frac{\sin x}{x}"),
        (r"6.63\times10^{-34}", r"1.05\times10^{-34}"),  # all tiny numbers are one after rounding
        (r"5.3\times10^{-19}", r"-5.3\times10^{-19}"),
        ("1.6e-19", "9e-19"),
        ("10^{-20}", "10^{-30}"),
        ("10^{-9}", "0.0"),
        (r"1.6\times10^{-19}\text{ C}", r"4.8\times10^{-19}\text{ C}"),
        ("CABD", "ABCD"),  # an order, and no product
        (r"\text{CABD}", "ABCD"),
        ("HHT", "HTH"),
        ("25", "$5$ squared"),
        ("5", "$5$ squared"),
        ("3", "3 times two"),
        ("12", "12 x"),
        *(("3", f"3 {name}") for name in ("theta", "alpha", "sqrt", "sin", "pi", "Omega")),
        *(("3", f"$3$ {name}") for name in ("theta", "pi", "sin x", "x")),
        ("12", "12 and more"),
        ("12", "12,000 people"),
        (r"(-\infty,2)\cup(3,\infty)", "x<2 or x>4"),
        (r"x<2\text{ or }x>3", r"x\le2\text{ or }x>3"),
    ],
)
def test_stricter_than_math_verify_on_purpose(gold: str, answer: str) -> None:
    (verdict,) = verify_many([(gold, answer)])
    assert verdict.status is Status.WRONG


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("12000", r"12\,000"),
        (r"\frac 1 2", "0.5"),
        (r"\log_2 3", r"\frac{\ln 3}{\ln 2}"),
        (r"2\log_3 5", r"\log_3 25"),
        (r"\sin^2 1", r"\sin^{2}(1)"),
        ("40", "2^3 5"),
        (r"\frac{1}{3}", r"0.\overline{3}"),
        (r"x=\frac{1}{6}", r"x = 0.1\bar{6}"),
        (r"6.63\times10^{-34}", "6.626e-34"),
        (r"1.6\times10^{-19}\text{ C}", r"1.6\cdot 10^{-19}"),
        (r"3\times10^8", "300000000"),
        ("CABD", r"\text{CABD}"),
        ("xyz", "zxy"),
        ("100, 200", "100,200"),
        (r"\{100,200\}", "100,200"),
        ("100,200", "100200"),
        (r"\{1,000, 2,000\}", "1,000, 2,000"),
        (r"\varnothing", r"\emptyset"),
        (r"(-\infty,2)\cup(3,\infty)", r"x<2 \text{ or } x>3"),
        ("x<2 or x>3", r"(-\infty,2)\cup(3,\infty)"),
        ("5", "$5$ apples."),
        ("5", "**5**"),
        *(("12", f"12 {unit}") for unit in ("cm^2", "m/s", "km/h", "dollars", "square units", "people")),
        ("12m^2", "12 m^2"),
    ],
)
def test_right_answers_that_math_verify_or_we_once_refused(gold: str, answer: str) -> None:
    assert [v.status for v in verify_many([(gold, answer), (gold, gold)])] == [Status.RIGHT, Status.RIGHT]


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("4210_{5}", "4210_5", True),
        ("4210_{5}", "4210", True),
        ("4210_{5}", "4210_{7}", False),
        ("110_2", "110_{10}", False),
        ("110_2", "6_{10}", True),
        ("110_2", "6", False),
        ("110_2", "n = (110)_2", True),
        ("-221_3", r"-221_{\text{three}}", True),
        ("{A5}_{11}", "A5_{11}", True),
        ("4A2_{11}", "4A2_{12}", False),
        ("0.0011_{2}", "0.1875_{10}", True),
        ("6", "110_2", True),
        ("110", "110_2", False),
        ("9", "9_7", False),  # has no such digit
        ("24_{10}", "24", True),
        ("110_2, 11_2", "110_2, 11_3", False),
        ("x_{10}", "x_2", False),
        (r"\log_2 9", r"\log_3 9", False),
    ],
)
def test_the_base_of_a_numeral_counts_where_it_is_named(gold: str, answer: str, right: bool) -> None:
    assert [v.status is Status.RIGHT for v in verify_many([(gold, answer), (gold, gold)])] == [right, True]


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("5", "6=5", False),
        ("5", "x=6=5", False),
        ("5", "1=2=3=4=5", False),
        ("5", "a=4=b=5", False),
        ("7", r"3\equiv 7", False),
        ("x=5", "x=6=5", False),
        ("2", r"2\text{ or more}", False),
        ("2", r"2\text{ million}", False),
        (r"2\text{ million}", r"2\text{ thousand}", False),
        (r"2\text{ million}", r"2\text{ million}", True),
        ("5", "x=5", True),
        ("5", "x=2+3=5", True),
        (r"2\sqrt{2}", r"d=\sqrt{8}=2\sqrt{2}", True),
        ("0.33", r"p=\frac{1}{3}=0.33", True),
        (r"25\%", r"\frac{1}{4}=25\%", True),
        (r"\frac{\pi}{2}", r"90^\circ=\frac{\pi}{2}", True),
        ("0.56=56", "0.56=56", True),
        ("2x=y", "2x=y", True),
    ],
)
def test_an_answer_names_one_number_and_nothing_that_makes_it_another(gold: str, answer: str, right: bool) -> None:
    (verdict,) = verify_many([(gold, answer)])
    assert (verdict.status is Status.RIGHT) == right


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        ("(0,1)", ["0,1", "0<x<1", r"x\in(0,1)"], [r"\{0,1\}", "1,0", r"0\le x<1", "-x(x-1)>0"]),
        ("(-1,1)", ["-1<x<1", "x=-1, y=1"], [r"\pm 1", r"x=\pm 1"]),
        (r"(2,\infty)", ["x>2", r"2<x<\infty"], [r"2,\infty"]),
        (r"(-\infty,2]", [r"x\le 2"], ["x<2"]),
        ("(5,2)", ["5,2", "(x,y)=(5,2)", "x=5, y=2"], [r"\{5,2\}", "2,5", "x=5, x=2"]),
        (r"\left\{2,5\right\}", ["2,5", "5,2", "x=2, x=5", r"x=2\text{ or }x=5"], ["(2,5)", "[2,5]"]),
        ("2,5", ["5,2", r"\{5,2\}", "(2,5)", "x=2, x=5"], ["2<x<5"]),
        (r"1\pm\sqrt{2}", [r"1-\sqrt{2}, 1+\sqrt{2}"], []),
        ("-1<x<1", ["(-1,1)", r"x\in(-1,1)"], ["-1,1", r"\{-1,1\}"]),
        ("(1,2),(3,4)", [r"\{(3,4),(1,2)\}"], ["(1,2)"]),
    ],
)
def test_a_set_is_no_point_and_no_interval(gold: str, right: list[str], wrong: list[str]) -> None:
    verdicts = verify_many([(gold, answer) for answer in [gold, *right, *wrong]])
    assert [v.status is Status.RIGHT for v in verdicts] == [True] * (1 + len(right)) + [False] * len(wrong)


def test_plain_numbers_are_decided_here_as_math_verify_would() -> None:
    rng = random.Random(0)
    spellings = ["{n}", "-{n}", "{n}.0", "{n}.5", "{n}/{m}", r"\frac{{{n}}}{{{m}}}", "0.{n}", "1,{n:03}", "{m}.{n}"]
    decided = 0
    for _ in range(400):
        gold, answer = (rng.choice(spellings).format(n=rng.randint(0, 12), m=rng.randint(1, 4)) for _ in range(2))
        verdict = judge_plain(gold, answer)
        if verdict is not None:
            decided += 1
            assert (verdict.status is Status.RIGHT) == theirs(gold, answer), (gold, answer)
    assert decided > 390


def test_plain_answers_need_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mathematics, "POOL", Workers("nowhere:nothing", deadline=1.0))
    pairs = [(str(i), str(i + i % 2)) for i in range(1_000)]
    assert [v.score for v in verify_many(pairs)] == [float(i % 2 == 0) for i in range(1_000)]


def test_the_same_pair_is_judged_once_and_the_order_is_kept() -> None:
    pairs = [("z+1", "1+z"), ("z+1", "z"), ("7", "7"), ("z+1", "1+z"), ("z", "z+1")] * 50
    assert [v.score for v in verify_many(pairs)] == [1.0, 0.0, 1.0, 1.0, 0.0] * 50
    started = time.perf_counter()
    verify_many(pairs)
    assert time.perf_counter() - started < 0.5


def test_it_works_off_the_main_thread() -> None:
    """math-verify's own alarm raises there, and many a trainer scored every answer 0."""
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(is_correct(Problem("", "", "w+1", "math"), "1+w")))
    thread.start()
    thread.join()
    assert found == [True]


@pytest.mark.parametrize("gold", ["", "x +* / ", "3 4", "７", "$1$ is the answer", "10^{10^{10}}", r"\frac{"])
def test_a_gold_that_cannot_be_read_is_an_error_even_for_itself(gold: str) -> None:
    for answer in (gold or "0", "7"):
        (verdict,) = verify_many([(gold, answer)])
        assert verdict.status is Status.ERROR and "cannot be read" in verdict.note


@pytest.fixture
def naughty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "util"))
    pool = Workers("naughty:compare", size=2, deadline=0.5)
    monkeypatch.setattr(mathematics, "POOL", pool)
    monkeypatch.setattr(mathematics, "_remembered", {})
    yield
    pool.close()


@pytest.mark.parametrize(("text", "why"), [("hang", "out of time"), ("crash", "crashed"), ("raise", "raised")])
def test_an_answer_that_stops_the_judge_is_wrong_and_says_so(naughty: None, text: str, why: str) -> None:
    verdicts = verify_many([("a", text), ("a", "a"), ("b", text)])
    assert [v.status for v in verdicts] == [Status.WRONG, Status.RIGHT, Status.WRONG]
    assert why in verdicts[0].note and verdicts[0].score == 0.0


@pytest.mark.parametrize("text", ["hang", "crash", "raise"])
def test_a_gold_that_stops_the_judge_is_an_error(naughty: None, text: str) -> None:
    (verdict,) = verify_many([(text, "a")])
    assert verdict.status is Status.ERROR and f"gold {text!r}" in verdict.note


def test_a_judge_that_somebody_kills_is_an_error(naughty: None) -> None:
    (verdict,) = verify_many([("a", "kill")])
    assert verdict.status is Status.ERROR and "killed" in verdict.note
