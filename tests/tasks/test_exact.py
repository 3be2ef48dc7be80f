from __future__ import annotations

import pytest

from aha.records import Problem
from aha.tasks.exact import is_correct, vote_key

FUJI = Problem("e", "?", "Mount Fuji", "exact")


def test_white_space_and_case_do_not_count() -> None:
    assert all(is_correct(FUJI, text) for text in ("Mount Fuji", " mount \n FUJI ", "Mount\tFuji"))
    assert vote_key(" A  b ") == "a b"


@pytest.mark.parametrize("text", ["", " ", "Mount", "Mount Fuji or K2", "not Mount Fuji", "Mount\u200b Fuji"])
def test_everything_else_does(text: str) -> None:
    assert not is_correct(FUJI, text)


def test_an_empty_answer_is_never_right_and_abstains() -> None:
    assert not is_correct(Problem("e", "?", "", "exact"), "")
    assert vote_key(" ") is None
