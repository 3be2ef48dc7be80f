"""Steps end where the text does, with words as tokens and with bytes; an equation holds or does not."""

from __future__ import annotations

import pytest

from aha.reward.steps import equations_hold, step_ends, step_rewards
from aha.tasks import chain
from aha.testing import byte_tokenizer, word_tokenizer


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_toys_steps_are_found_in_its_word_tokens(language: str) -> None:
    """Every sentence of a chain sum is a step; the one with the slip alone earns 0, the end what the outcome does."""
    words = word_tokenizer()
    thought = chain.clean_thought("12 #1 + 5 #2 - 3 #3 + 8", language)
    ids = [*words.encode(f"<think> {thought.replace('= 14', '= 15')} </think> <answer> 22 </answer>"), words.eos_id]
    found = step_rewards(words.pieces(ids), 0.5)
    stops = [i for i, token in enumerate(ids) if words.token_text(token) == "."]
    assert found == [(stops[0], 1.0), (stops[1], 0.0), (stops[2], 1.0), (len(ids) - 1, 0.5)]
    assert step_ends(words.pieces(ids)) == (*stops, stops[-1] + 1, len(ids) - 1)


def test_the_same_steps_in_bytes_and_no_step_in_a_decimal() -> None:
    text = "first 1 #1 + 2 = 3 . then 3 + 3 = 7\nso 3.5 it is"
    pieces = byte_tokenizer().pieces(byte_tokenizer().encode(text))
    assert step_rewards(pieces, 1.0) == [(text.index("."), 1.0), (text.index("\n"), 0.0), (len(text) - 1, 1.0)]
    assert step_rewards((), 1.0) == []


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("then 12 #1 + 5 = 17", True),
        ("then 12 #1 + 5 = 18", False),
        ("12 #1 + 5 #2 - 3 = 14", True),
        ("try 16 - 6 + 1 = 11 no", True),
        ("2 + 3 * 4 = 14", True),
        ("1 / 0 = 0", False),
        ("so 14", None),
        ("2 + 3 = 5.", True),
        ("(2 + 3 = 6)", False),
        ("- 2 + 3 = 5", True),
        (r"so $2 \times 3 + 1 = 7$", True),
        ("所以2×3+1=8", False),
        ("2 + 3 = 4 + 1 = 5", True),
        ("2 + 3 = 5 + 1 = 7", False),
        ("2 + 3 = 5 + 1 = 6", False),
        ("x = 2 + 3 = 6", False),
        ("x = 2 + 3 = y", None),
    ],
)
def test_equations(text: str, holds: bool | None) -> None:
    assert equations_hold(text) is holds


@pytest.mark.parametrize(
    "text",
    [
        "(1 + 2) * 3 + 1 = 10",
        "50 - (3 + 4) * 2 - 1 = 35",
        "x * 3 + 1 = 10",
        "x^2 + 3 = 12",
        "2^3 + 1 = 9",
        "20% + 3 = 5",
        "2x + 3 = 7",
        "0.5 * 10 = 5",
        "2 + 3 = 5.5",
        "2 + 3 = 5x",
        "2 + 3 = 5 + x = 7",
        "2 + 3 = 5!",
        "1,000 + 5 = 1,005",
        "2 * 4 = 1 (mod 7)",
        "17 / 5 = 3 remainder 2",
        "17/5 = 3 R 2",
        "day 2 = 3 + 4",
        "8 * 1 1/2 = 12",
        "3 / 4 * 2 = 1 1/2",
    ],
)
def test_a_calculation_that_is_part_of_more_has_no_verdict(text: str) -> None:
    assert equations_hold(text) is None
