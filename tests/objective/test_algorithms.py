"""The rows against the published numbers, and choices that do not go together."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from aha.errors import SettingError
from aha.objective.algorithms import ALGORITHMS, Algorithm, Critic
from aha.objective.kl import k1, k2, k3

INF = math.inf

# Written from the papers, not from the table. facts: beta, clip low and high, aggregation, baseline, scale, updates.
PUBLISHED: dict[str, dict[str, Any]] = {
    "reinforce": {"baseline": "batch", "ratio": "none", "aggregation": "sum", "beta": 0.0, "minibatches": 1},
    "reinforce++": {"clip_low": 0.2, "clip_high": 0.2, "kl": k1, "kl_in": "reward", "scale": "batch_std"},
    "reinforce++-baseline": {"baseline": "group", "scale": "batch_std", "kl": k2, "kl_in": "loss"},
    "rloo": {"baseline": "leave_one_out", "scale": "none", "kl_in": "reward", "ratio": "none"},
    "remax": {"baseline": "greedy", "ratio": "none"},
    "ppo": {"clip_low": 0.2, "clip_high": 0.2, "kl": k1, "kl_in": "reward", "baseline": "critic", "ratio": "token"},
    "grpo": {"beta": 0.04, "kl": k3, "kl_in": "loss", "aggregation": "sequence", "scale": "group_std"},
    "grpo-process": {"process": True, "beta": 0.04, "scale": "group_std"},
    "grpo-r1": {"beta": 0.001, "clip_low": 10.0, "clip_high": 10.0, "minibatches": 16, "reference_refresh": 400},
    "dr-grpo": {"scale": "none", "aggregation": "constant", "beta": 0.0},
    "dapo": {"clip_low": 0.2, "clip_high": 0.28, "aggregation": "token", "beta": 0.0, "keep": "mixed", "refill": 1.0},
    "gspo": {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4, "minibatches": 4, "beta": 0.0},
    "cispo": {"clip": "weight", "clip_low": INF, "clip_high": 4.0, "aggregation": "token", "beta": 0.0},
    "gpg": {"scale": "none", "ratio": "none", "rescale": True, "refill": 0.6, "beta": 0.0, "aggregation": "token"},
    "cppo": {"prune": 0.875, "scale": "group_std", "beta": 0.04},
    "vapo": {"clip_low": 0.2, "clip_high": 0.28, "nll": 0.1, "aggregation": "token", "beta": 0.0},
    "kimi": {"baseline": "group", "scale": "none", "ratio": "none", "aggregation": "sum"},
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_row_has_the_published_values(name: str) -> None:
    row = ALGORITHMS[name]
    assert {choice: getattr(row, choice) for choice in PUBLISHED[name]} == PUBLISHED[name]


def test_every_row_is_checked_named_cited_and_frozen() -> None:
    assert PUBLISHED.keys() == ALGORITHMS.keys()
    for name, row in ALGORITHMS.items():
        assert row.name == name and len(row.citation) > 60
        with pytest.raises(dataclasses.FrozenInstanceError):
            row.beta = 1.0  # type: ignore[misc]


def test_critics_have_the_published_lambdas() -> None:
    ppo, vapo = ALGORITHMS["ppo"].critic, ALGORITHMS["vapo"].critic
    assert ppo is not None and vapo is not None
    assert (ppo.gamma, ppo.lam_policy, ppo.lam_value, ppo.lr_ratio) == (1.0, 1.0, 1.0, 5.0)
    assert (vapo.lam_value, vapo.length_alpha, vapo.warmup, vapo.lr_ratio) == (1.0, 0.05, 50, 2.0)


def test_r1_refreshes_its_reference_every_25_rollouts() -> None:
    row = ALGORITHMS["grpo-r1"]
    # 8,192 outputs a rollout in 16 mini-batches are the published 512 a step; 400 steps are 25 rollouts.
    assert 8192 / row.minibatches == 512
    assert row.reference_refresh is not None and row.reference_refresh / row.minibatches == 25


def test_what_is_not_published_is_said() -> None:
    for name in ("grpo", "kimi", "cispo", "reinforce++"):
        assert any(word in ALGORITHMS[name].citation for word in ("not stated", "not printed")), name



@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"baseline": "critic"}, "go together"),
        ({"critic": Critic()}, "go together"),
        ({"process": True, "baseline": "batch"}, "pooled over the group"),
        ({"clip_low": -0.1}, "negative"),
        ({"ratio": "none", "clip_high": 0.2}, "nothing to clip"),
        ({"ratio": "sequence", "clip": "weight"}, "ratio='token'"),
        ({"prune": 1.0}, "below 1"),
        ({"refill": 2.0, "keep": "mixed"}, "share"),
        ({"refill": 0.5}, "told apart"),
        ({"beta": -1.0}, "negative"),
        ({"beta": 0.1, "kl": k1}, "expected gradient of 0"),
    ],
)
def test_choices_that_do_not_go_together_are_refused(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=f"algorithm 'mine': .*{message}"):
        Algorithm(name="mine", **choices)
