"""Problems whose answer is a formula: MATH, AIME, OlympiadBench. Equality is math-verify's, in killable processes.

A time-out or a crash is the answer's fault, and wrong, if the gold compared with itself gets through: a policy must not
escape a bad verdict by hanging the judge. Otherwise it is an error of the verifier.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from aha.records import Problem, Status, Verdict
from aha.tasks import formula
from aha.util.workers import End, Outcome, Workers

DEADLINE = 3.0
POOL = Workers("aha.tasks.symbolic:compare", deadline=DEADLINE, memory=1 << 30)
MAX_REMEMBERED = 50_000
ROUNDING = Fraction(1, 10**6)

_ANOTHER_VALUE = re.compile(  # what math-verify drops as a unit: 2\text{ or more}, 2\text{ million}
    r"\bor\W+(?:more|less|fewer|greater|higher|lower|larger|smaller|above|below|over|under)\b"
    r"|\b(?:dozen|hundred|thousand|million|billion|trillion)"
    r"|(?<![\\a-zA-Z])(?:not|plus|minus|times|squared|cubed|factorial|hal(?:f|ves)|(?:third|quarter|fourth|fifth|sixth|seventh|eighth"
    r"|ninth|tenth)s?)\b"
)
_UNEVALUATED = re.compile(r"\\(?:i{1,3}nt|oint|sum|prod|lim)(?![a-zA-Z])")

Pair = tuple[str, str]
_remembered: dict[Pair, Verdict] = {}


def verify_many(pairs: Sequence[Pair]) -> list[Verdict]:
    """A verdict for each (gold, answer), in order; each different pair is judged once. ERROR where the gold cannot be
    read or its own comparison fails; ``VerifierError`` when no process can be started."""
    if len(_remembered) > MAX_REMEMBERED:
        _remembered.clear()
    known = {pair: verdict for pair in pairs if (verdict := _remembered.get(pair) or judge_plain(*pair))}
    asked = list(dict.fromkeys(pair for pair in pairs if pair not in known))
    outcomes = dict(zip(asked, POOL.run([_job(pair) for pair in asked]), strict=True))
    failed = dict.fromkeys((pair[0], pair[0]) for pair in asked if outcomes[pair].end is not End.DONE)
    alone = dict(zip(failed, POOL.run([_job(pair) for pair in failed]), strict=True))
    for pair, outcome in outcomes.items():
        known[pair] = verdict = _verdict(pair, outcome, alone.get((pair[0], pair[0])))
        if verdict.status is not Status.ERROR:
            _remembered[pair] = verdict
    return [known[pair] for pair in pairs]


def judge_plain(gold: str, answer: str) -> Verdict | None:
    """The verdict where no algebra is needed: one side is refused, or both are numbers; else ``None``.

    Of two numbers the verdict is math-verify's, which rounds to six decimals when one is a decimal fraction, but for
    one case: a tiny number is not equal to every other tiny number.
    """
    wanted, found = _plain((gold, answer))
    if reason := formula.refuse(wanted):
        return Verdict("accuracy", Status.ERROR, 0.0, f"gold {gold[:80]!r} cannot be read: {reason}")
    if reason := formula.refuse(found):
        return _wrong(gold, answer, f"not read: {reason}")
    if _UNEVALUATED.search(found) and not _UNEVALUATED.search(wanted):
        return _wrong(gold, answer, "a sum, product, limit or integral that is not evaluated repeats the question")
    if not set(_ANOTHER_VALUE.findall(found)) <= set(_ANOTHER_VALUE.findall(wanted)):
        return _wrong(gold, answer, "words that make another value of the number")
    if (order := formula.letters(wanted)) and (said := formula.letters(found)):
        if order != said:  # as a product of letters they might be equal
            return _wrong(gold, answer, "not equal")
        return Verdict("accuracy", Status.RIGHT, 1.0, _said(gold, answer))
    x, y = formula.read_number(wanted), formula.read_number(found)
    if x is None or y is None:
        return None
    gap = abs(x - y)
    if gap == 0:
        return Verdict("accuracy", Status.RIGHT, 1.0, _said(gold, answer))
    exact = "." not in wanted + found
    if exact or gap > 2 * ROUNDING or gap > max(abs(x), abs(y)) / 1000:
        return _wrong(gold, answer, "another number")
    return None


def is_correct(problem: Problem, answer: str) -> bool:
    """Whether an answer equals the gold (of many: ``verify_many``). ``ValueError`` when the verifier fails."""
    (verdict,) = verify_many([(problem.answer, answer)])
    if verdict.status is Status.ERROR:
        raise ValueError(verdict.note)
    return verdict.status is Status.RIGHT


def is_within(gold: str, answer: str, tolerances: Sequence[float]) -> bool:
    """Whether plain numbers differ by the tolerance at most; a percent sign on either side says nothing. Several stand
    in the same order, and all have one tolerance or each its own."""
    golds = gold.split(", ")
    answers = re.split(r",\s*", answer) if len(golds) > 1 else [answer]
    allowed = tolerances if len(tolerances) > 1 else [*tolerances] * len(golds)
    near = len(golds) == len(answers) == len(allowed)
    return near and all(_is_near(*one) for one in zip(golds, answers, allowed, strict=True))


def _is_near(gold: str, answer: str, tolerance: float) -> bool:
    x, y = (formula.read_number(formula.clean(text.replace("\\%", "").replace("%", ""))) for text in (gold, answer))
    return x is not None and y is not None and abs(x - y) <= Fraction(str(tolerance))


def what_was_read(gold: str, answer: str) -> tuple[str, str]:
    """Gold and answer as the computer algebra reads them, for people; empty where nothing was read."""
    (outcome,) = POOL.run([(*_plain((gold, answer)), True)])
    shown: list[str] = outcome.value["shown"] if outcome.end is End.DONE else ["", ""]
    return shown[0], shown[1]


def _plain(pair: Pair) -> Pair:
    return formula.in_one_form(formula.clean(pair[0]), formula.clean(pair[1]))


def _job(pair: Pair) -> Sequence[Any]:
    return (*_plain(pair), False)


def _verdict(pair: Pair, outcome: Outcome, alone: Outcome | None) -> Verdict:
    gold, answer = pair
    if outcome.end is End.DONE:
        gold_read, answer_read = outcome.value["read"]
        if not gold_read:
            return Verdict("accuracy", Status.ERROR, 0.0, f"gold {gold[:80]!r} cannot be read as a formula")
        if outcome.value["equal"]:
            return Verdict("accuracy", Status.RIGHT, 1.0, _said(gold, answer))
        return _wrong(gold, answer, "not equal" if answer_read else "not read as a formula")
    if outcome.end is End.KILLED or alone is None or alone.end is not End.DONE or not alone.value["equal"]:
        why = f"{outcome.end.value} ({outcome.note}) comparing {answer[:80]!r} with gold {gold[:80]!r}"
        return Verdict("accuracy", Status.ERROR, 0.0, f"the verifier failed: {why}")
    return _wrong(gold, answer, f"the comparison ended: {outcome.end.value} ({outcome.note})")


def _wrong(gold: str, answer: str, why: str) -> Verdict:
    return Verdict("accuracy", Status.WRONG, 0.0, f"{_said(gold, answer)}: {why}")


def _said(gold: str, answer: str) -> str:
    return f"answer {answer[:200]!r}, gold {gold[:200]!r}"
