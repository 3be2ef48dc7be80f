"""Groups: seeds that belong to the sample, and engines that answer wrongly are caught."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from torch import nn

from aha.errors import InvariantError
from aha.records import Completion, FinishReason, Problem
from aha.rollout.engine import Engine, SamplingParams
from aha.rollout.group import sample_groups

PROBLEMS = [Problem(f"p{i}", "?", "1", "chain") for i in range(3)]
PROMPTS = [[1], [2, 3], [4]]
PARAMS = SamplingParams(max_new_tokens=4)


@dataclass
class SeedEngine:
    """Answers with the seed it was given, so that a test can see it."""

    policy_version: int = 7
    answer_version: int = 7
    lost: int = 0
    lost_groups: int = 0
    length: int = 1

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        params: SamplingParams,
        **_: Any,
    ) -> list[list[Completion]]:
        def answer(seed: int) -> Completion:
            return Completion((seed,) * self.length, (0.0,) * self.length, FinishReason.END, self.answer_version)

        return [[answer(s) for s in own[self.lost :]] for own in seeds[self.lost_groups :]]

    def load_weights(self, decoder: nn.Module, version: int) -> None:
        self.policy_version = version


def test_a_sample_has_the_same_seed_whatever_else_is_asked() -> None:
    engine: Engine = SeedEngine()
    groups = sample_groups(engine, PROBLEMS, PROMPTS, 4, PARAMS, seed=1, step=5)
    assert [g.problem for g in groups] == PROBLEMS and [g.prompt_ids for g in groups] == [(1,), (2, 3), (4,)]
    seeds = [c.token_ids[0] for g in groups for c in g.completions]
    assert len(set(seeds)) == 12
    fewer = sample_groups(engine, PROBLEMS[1:2], PROMPTS[1:2], 2, PARAMS, seed=1, step=5)
    assert [c.token_ids[0] for c in fewer[0].completions] == seeds[4:6]
    other = sample_groups(engine, PROBLEMS, PROMPTS, 4, PARAMS, seed=1, step=6)
    assert not set(seeds) & {c.token_ids[0] for g in other for c in g.completions}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"answer_version": 6}, "policy version 6, not 7"),
        ({"lost": 1}, "3 completions, not 4"),
        ({"lost_groups": 1}, "2 groups for 3 problems"),
        ({"length": 5}, "5 tokens, not 1 to 4"),
        ({"length": 0}, "0 tokens, not 1 to 4"),
    ],
)
def test_wrong_answers_are_caught(fault: dict[str, int], words: str) -> None:
    with pytest.raises(InvariantError, match=words):
        sample_groups(replace(SeedEngine(), **fault), PROBLEMS, PROMPTS, 4, PARAMS, seed=1, step=5)


def test_every_problem_needs_a_prompt() -> None:
    with pytest.raises(InvariantError, match="3 problems but 2 prompts"):
        sample_groups(SeedEngine(), PROBLEMS, PROMPTS[:2], 4, PARAMS, seed=1, step=5)
