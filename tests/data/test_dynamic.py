"""Dynamic sampling's accounts by hand, and that they agree with the advantages on what gives a gradient."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from aha.data.dynamic import Account, Judged, is_mixed, not_truncated, round_fits
from aha.errors import SettingError
from aha.objective.advantages import group_advantages
from aha.records import FinishReason


def group(*rewards: float, tokens: int = 10) -> Judged:
    return Judged(rewards, [True] * len(rewards), tokens)


MIXED, SAME = group(1.0, 0.0), group(1.0, 1.0)


def test_mixed_is_what_gives_an_advantage() -> None:
    for rewards in itertools.product((0.0, 0.1, 0.1 + 1e-16, 1.0, math.nan), repeat=3):
        for valid in itertools.product((False, True), repeat=3):
            if any(math.isnan(r) and v for r, v in zip(rewards, valid, strict=True)):
                continue
            advantages = group_advantages(torch.tensor([rewards], dtype=torch.float64), torch.tensor([valid]))
            assert is_mixed(Judged(rewards, valid, 1)) == bool((advantages != 0).any())


def test_a_step_by_hand() -> None:
    """Of 4 wanted: 1 of 4 mixed, so 3 missing need 12, capped at 4; then 3 mixed of 4 fill it up."""
    account = Account(wanted=4, max_rounds=5)
    assert account.to_ask() == 4
    kept, account = account.settle([SAME, MIXED, SAME, SAME])
    assert kept == [1]
    assert (account.kept, account.tokens_kept, account.tokens_wasted, account.tokens) == (1, 10, 30, 40)
    assert account.to_ask() == 4
    kept, account = account.settle([MIXED, SAME, MIXED, group(0.0, 1.0, tokens=7)])
    assert kept == [0, 2, 3]
    assert account == Account(
        wanted=4, max_rounds=5, rounds=2, asked=8, mixed=4, kept=4, tokens_kept=37, tokens_wasted=40
    )
    assert account.to_ask() == 0


def test_it_asks_as_many_as_should_do() -> None:
    _, account = Account(wanted=10, max_rounds=9).settle([MIXED] * 8 + [SAME] * 2)
    assert account.to_ask() == 3  # 2 missing over 0.8


def test_what_there_is_no_room_for_is_wasted() -> None:
    kept, account = Account(wanted=1, max_rounds=1).settle([SAME, MIXED, MIXED])
    assert (kept, account.tokens_kept, account.tokens_wasted, account.mixed) == ([1], 10, 20, 2)


def test_the_rounds_are_capped() -> None:
    account = Account(wanted=2, max_rounds=3)
    rounds = 0
    while number := account.to_ask():
        _, account = account.settle([SAME] * number)
        rounds += 1
    assert (rounds, account.rounds, account.asked, account.kept, account.tokens_wasted) == (3, 3, 6, 0, 60)


def test_another_round_must_fit_the_budget_of_tokens() -> None:
    """4 groups of 10 tokens sampled; 4 more are expected to take 40."""
    for budget, asks in ((79, 0), (80, 4), (1, 0), (None, 4)):
        _, account = Account(wanted=4, max_rounds=9, max_tokens=budget).settle([SAME] * 4)
        assert account.to_ask() == asks
    assert Account(wanted=4, max_rounds=9, max_tokens=1).to_ask() == 4
    assert round_fits(Account(wanted=4, max_rounds=9, max_tokens=100, asked=4, tokens_kept=40), 6)
    assert not round_fits(Account(wanted=4, max_rounds=9, max_tokens=100, asked=4, tokens_kept=40), 7)


@pytest.mark.parametrize("settings", [{"wanted": 0}, {"max_rounds": 0}, {"max_tokens": 0}])
def test_settings_that_cannot_be_are_named(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="dynamic sampling"):
        Account(**{"wanted": 4, "max_rounds": 2, **settings})


def test_the_overlong_filter_masks_what_was_cut_alone() -> None:
    assert not_truncated([FinishReason.END, FinishReason.LENGTH, FinishReason.STOP]) == [True, False, True]
