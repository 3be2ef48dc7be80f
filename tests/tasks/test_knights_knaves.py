"""Everybody's role, all right; whoever says two things of one person says nothing."""

from __future__ import annotations

import pytest

from aha.records import Problem
from aha.tasks.knights_knaves import is_correct, read_roles, vote_key

GOLD = "(1) Zoey is a knight\n(2) Oliver is a knave\n(3) Mia is a knight"
PROBLEM = Problem("k", "?", GOLD, "knights_knaves", meta={"names": ["Zoey", "Oliver", "Mia"]})


@pytest.mark.parametrize(
    "text",
    [
        GOLD,
        "(3) Mia is a knight (1) Zoey is a knight (2) Oliver is a knave",
        "zoey is a Knight, OLIVER is a KNAVE and mia is a knight.",
        "Zoey: knight; Oliver: knave; Mia: knight",
        "Zoey - knight\nOliver - knave\nMia = knight",
        "**Zoey** is a **knight**, **Oliver** is a **knave**, **Mia** is a **knight**",
        f"{GOLD}\nZoey is a knight",
    ],
)
def test_right(text: str) -> None:
    assert is_correct(PROBLEM, text)
    assert vote_key(text) == "mia knight, oliver knave, zoey knight"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "knight knave knight",
        "Zoey is a knight (2) Oliver is a knave",
        GOLD.replace("knave", "knight"),
        GOLD + " (4) Ann is a knave",
        GOLD + " Zoey is a knave",
        GOLD.replace("Zoey is", "Zoey is not"),
        "It is false that " + GOLD,
        "It's untrue that " + GOLD,
        GOLD + " is wrong",
        GOLD + ": incorrect",
        "I don’t think that " + GOLD,
        GOLD + " or Oliver is a knight",
        "if " + GOLD,
        "Either " + GOLD,
        GOLD.replace("Mia", "M1a"),
        GOLD.replace("Oliver is a knave", "Oliver is a knave or a knight"),
        "everybody is a knight except Oliver",
        GOLD * 60,
        GOLD.replace("Zoey", "Zo\u200bey"),
    ],
)
def test_wrong(text: str) -> None:
    assert not is_correct(PROBLEM, text)


def test_what_commits_to_nothing_abstains() -> None:
    assert read_roles("Zoey is a knight or Oliver is a knave") is None
    assert vote_key("no idea") is None
