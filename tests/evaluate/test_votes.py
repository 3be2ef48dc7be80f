from __future__ import annotations

import pytest

from aha.evaluate.votes import join_equal, vote_keys
from aha.records import Problem, Status, Verdict
from aha.reward.response import read_response
from aha.tasks import mathematics


def test_equal_formulas_vote_as_the_one_said_first() -> None:
    keys: list[list[str | None]] = [["x+2", "2+x", None, "x", "2+x"], ["7", "8"], [None]]
    assert join_equal(keys) == [["x+2", "x+2", None, "x", "x+2"], ["7", "8"], [None]]
    assert join_equal([]) == []


def test_formulas_that_nobody_could_compare_are_not_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Verdict("accuracy", Status.ERROR, 0.0, "too slow")
    monkeypatch.setattr(mathematics, "verify_many", lambda pairs: [failed] * len(pairs))
    assert join_equal([["x", "y", "x"]]) == [["x", "y", "x"]]


def test_answers_that_are_written_apart_win_together() -> None:
    problem = Problem("p", "q", r"\frac{1}{2}", "math")
    said = [r"\boxed{3}", r"\boxed{3}"]
    said += [r"so \boxed{\frac{\sqrt{4}}{4}}", r"The answer is 0.5", r"\boxed{\frac12}", "no"]
    (keys,) = vote_keys([problem], [[read_response(text) for text in said]])
    assert keys[2] == keys[3] == keys[4] is not None and keys[0] == keys[1] == "3" and keys[5] is None
