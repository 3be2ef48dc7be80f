"""Preference pairs prefer what the rules prefer, and every general prompt has exactly one judge."""

from __future__ import annotations

import random

from aha.data.preferences import is_harmful, make_pair
from aha.data.problems import toy_general
from aha.reward import rules
from aha.reward.response import read_response
from aha.stages.rewarding import is_harmless
from aha.testing import few_problems


def test_the_chosen_response_is_right_and_never_worse() -> None:
    bad = 0
    for seed in range(600):
        rng = random.Random(seed)
        problem = toy_general(rng, held_out=False)
        pair = make_pair(problem, rng)
        chosen, rejected = read_response(pair.chosen), read_response(pair.rejected)
        assert chosen.well_formed
        assert rejected.well_formed
        assert chosen.think == rejected.think
        assert chosen.answer != rejected.answer
        assert rules.general_rule(problem, chosen).score == 1.0
        bad += rules.general_rule(problem, rejected).score == 0.0
    assert 300 < bad < 600  # some pairs are right against right: the full answer is preferred to the curt one


def test_a_prompt_has_one_judge_and_a_reasoning_problem_none() -> None:
    for seed in range(200):
        problem = toy_general(random.Random(seed), held_out=False)
        assert is_harmful(problem) != is_harmless(problem)
    for problem in few_problems():
        if problem.task != "general":
            assert not is_harmful(problem)
            assert not is_harmless(problem)
