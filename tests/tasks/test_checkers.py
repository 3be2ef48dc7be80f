"""The table of checkers judges every family's gold and offers the nearest name for an unknown task."""

from __future__ import annotations

import dataclasses

import pytest

from aha.errors import DataError
from aha.tasks.checkers import checker_of
from aha.testing import few_problems


def test_every_gold_is_accepted_and_votes() -> None:
    for problem in few_problems():
        if problem.task != "general":
            checker = checker_of(problem)
            assert checker.is_correct(problem, problem.answer)
            assert checker.vote_key(problem.answer) is not None
            assert checker.vote_key("") is None


def test_an_unknown_task_is_named_with_the_nearest() -> None:
    problem = dataclasses.replace(few_problems()[0], task="chains", id="mine/3")
    with pytest.raises(DataError, match=r"mine/3.*'chains'.*did you mean 'chain'"):
        checker_of(problem)
