"""Records refuse what would be normalised over the wrong set, and cannot be changed."""

from __future__ import annotations

import dataclasses

import pytest

from aha.records import Completion, FinishReason, Group, Problem, Status, Verdict

PROBLEM = Problem("chain/2 + 3", "compute 2 + 3", "5", "chain")


def completion(version: int = 0) -> Completion:
    return Completion((17, 2), (-0.1, -0.2), FinishReason.END, version)


def test_a_completion_has_a_log_prob_for_each_token() -> None:
    with pytest.raises(ValueError, match="2 tokens but 1 log-probs"):
        Completion((17, 2), (-0.1,), FinishReason.END, 0)


def test_a_group_is_of_one_policy_version_and_not_empty() -> None:
    assert len(Group(PROBLEM, (5,), (completion(), completion())).completions) == 2
    with pytest.raises(ValueError, match=r"chain/2 \+ 3.*empty"):
        Group(PROBLEM, (5,), ())
    with pytest.raises(ValueError, match=r"mixes policy versions \[1, 2\]"):
        Group(PROBLEM, (5,), (completion(1), completion(2)))


def test_records_are_frozen_and_compare_by_value() -> None:
    assert dataclasses.replace(PROBLEM) == PROBLEM
    with pytest.raises(dataclasses.FrozenInstanceError):
        PROBLEM.answer = "6"  # type: ignore[misc]


def test_reasons_and_statuses_are_their_names_in_files() -> None:
    assert [str(reason) for reason in FinishReason] == ["end", "stop", "length", "broken"]
    assert [str(status) for status in Status] == ["right", "wrong", "error"]
    assert Verdict("accuracy", Status.RIGHT, 1.0).note == ""
