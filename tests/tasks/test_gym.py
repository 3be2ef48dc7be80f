"""Every family of reasoning-gym: after a trip through a file its gold is right by its verifier, and nonsense is not."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aha.data.problems import load_checked, save_problems
from aha.errors import UsageError
from aha.records import Problem, Status
from aha.tasks import gym
from aha.tasks.gym import families, generate, verify_many

pytest.importorskip("reasoning_gym")

WITHOUT_GOLD = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> list[Problem]:
    problems = [problem for family in families() for problem in generate(family, seed=3, size=2)]
    path = tmp_path_factory.mktemp("gym") / "gym.jsonl"
    save_problems(path, problems)
    kept, dropped = load_checked(path)
    assert dropped == [] and len(kept) == len(problems)
    return kept


def test_every_family_accepts_its_gold(every: list[Problem]) -> None:
    assert len({p.meta["family"] for p in every}) >= 100
    assert {p.meta["family"] for p in every if not p.answer} == WITHOUT_GOLD
    asked = [p for p in every if p.answer]
    verdicts = verify_many(asked, [p.answer for p in asked])
    assert [(p.id, v.note) for p, v in zip(asked, verdicts, strict=True) if v.status is not Status.RIGHT] == []


@pytest.mark.parametrize("text", ["", "no idea", "[", "{}", "0/0", "\x00", "((((", "None", "1" * 25_000])
def test_no_family_takes_nonsense_or_fails_on_it(every: list[Problem], text: str) -> None:
    verdicts = verify_many(every, [text] * len(every))
    odd = [(p.id, v) for p, v in zip(every, verdicts, strict=True) if v.status is not Status.WRONG and p.answer != text]
    assert odd == [] and {v.score for v in verdicts} <= {0.0, 1.0}


def test_problems_depend_on_the_seed_alone_and_equal_questions_share_a_side() -> None:
    assert generate("leg_counting", seed=1, size=3) == generate("leg_counting", seed=1, size=3)
    assert generate("leg_counting", seed=1, size=3) != generate("leg_counting", seed=2, size=3)
    problem = generate("leg_counting", seed=1, size=1)[0]
    assert problem.meta["split_key"] == f"gym/leg_counting/{problem.prompt}" and problem.task == "reasoning_gym"


def test_an_unknown_family_gets_a_hint() -> None:
    with pytest.raises(UsageError, match="no family 'leg_count'.*did you mean 'leg_counting'"):
        generate("leg_count", seed=0, size=1)
    with pytest.raises(UsageError, match="left out.*takes every text"):
        generate("game_of_life_halting", seed=0, size=1)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    yield


def test_without_the_extra_the_message_says_what_to_install(without: None) -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("reasoning_gym")
    with pytest.raises(UsageError, match=r"pip install 'aha\[gym\]'"):
        families()


def test_a_verifier_that_hangs_on_an_answer_counts_it_as_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "util"))
    pool = gym.Workers("naughty:score", deadline=0.5)
    monkeypatch.setattr(gym, "POOL", pool)
    problem = Problem("g", "?", "7", "reasoning_gym", meta={"family": "f", "entry": "{}"})
    verdicts = verify_many([problem] * 3, ["hang", "7", "raise"])
    assert [v.status for v in verdicts] == [Status.WRONG, Status.RIGHT, Status.WRONG]
    bad = Problem("g", "?", "hang", "reasoning_gym", meta={"family": "f", "entry": "{}"})
    assert verify_many([bad], ["hang"])[0].status is Status.ERROR
    pool.close()
