"""One letter, however written; never two."""

from __future__ import annotations

import pytest

from aha.records import Problem
from aha.tasks.choice import is_correct, read_letter, vote_key


@pytest.mark.parametrize(
    "text",
    [
        "B", "b", "(B)", "B.", "B)", " **B** ", "\\text{B}", "\\text{(B)}", "$B$", "B:", "(b)", "Option B",
        "choice (B)", "Answer: B",
        "B) Paris", "(B) A cat sat", "B. I am here", "**(B)** Paris", "B) Paris, B is right", "\\textbf{(B) }",
    ],
)  # fmt: skip
def test_one_letter_is_read(text: str) -> None:
    assert read_letter(text) == "B" == vote_key(text)
    assert is_correct(Problem("c", "?", "B", "choice"), text)
    assert not is_correct(Problem("c", "?", "A", "choice"), text)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "A or B", "B or A", "A, B", "AB", "A B", "(A)(B)", "(A) (B)", "A/B", "A and B", "not B", "neither",
        "K", "Z", "Ｂ", "B" * 600,
        "B) or A) or C)", "B) not A", "(B) or (C)", "B. A.", "B) Paris or C) Rome", "all", "Because", "B\u200b", "1",
        "A|B", "B, C) x",
        "either B", "B or so", "the letter after A", "B) Paris, or maybe D",
    ],
)  # fmt: skip
def test_nothing_and_several_are_no_answer(text: str) -> None:
    assert read_letter(text) is None
    for gold in "ABCDZ":
        assert not is_correct(Problem("c", "?", gold, "choice"), text)
