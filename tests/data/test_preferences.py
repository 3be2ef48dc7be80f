"""Preference pairs prefer what the rules prefer, and every general prompt has exactly one judge."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from aha.data.preferences import is_harmful, make_pair
from aha.data.problems import load_problems, toy_general
from aha.errors import DataError
from aha.reward import rules
from aha.reward.response import read_response
from aha.stages.rewarding import has_rule, is_harmless
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


def test_a_prompt_of_ones_own_names_its_judge(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    rows = [{"problem": f"p {judge}", "task": "general", "judge": judge} for judge in ("helpful", "safe")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    helpful, safe = load_problems(path)
    assert (is_harmful(helpful), is_harmless(helpful), has_rule(helpful)) == (False, True, False)
    assert (is_harmful(safe), is_harmless(safe)) == (True, False)
    path.write_text('{"problem": "p", "task": "general", "judge": "harmless"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="row 1"):
        load_problems(path)
