"""The rows against the published numbers."""

from __future__ import annotations

import dataclasses

import pytest

from aha.objective.algorithms import ALGORITHMS, GRPO, GRPO_R1
from aha.objective.kl import k3


def test_grpo_is_deepseekmath() -> None:
    assert (GRPO.beta, GRPO.minibatches, GRPO.advantage_scale, GRPO.aggregation) == (0.04, 1, "std", "sequence")
    assert GRPO.kl is k3
    assert "not stated" in GRPO.citation and (GRPO.clip_low, GRPO.clip_high) == (0.2, 0.2)


def test_grpo_r1_is_the_r1_paper() -> None:
    assert (GRPO_R1.clip_low, GRPO_R1.clip_high, GRPO_R1.beta) == (10.0, 10.0, 0.001)
    assert (GRPO_R1.reference_refresh, GRPO_R1.minibatches) == (400, 16)
    # 8,192 outputs a rollout in 16 mini-batches are the published 512 a step; 400 steps are 25 rollouts.
    assert 8192 / GRPO_R1.minibatches == 512
    assert GRPO_R1.reference_refresh is not None and GRPO_R1.reference_refresh / GRPO_R1.minibatches == 25


def test_rows_are_named_cited_and_frozen() -> None:
    for name, row in ALGORITHMS.items():
        assert row.name == name and row.citation
        with pytest.raises(dataclasses.FrozenInstanceError):
            row.beta = 1.0  # type: ignore[misc]
