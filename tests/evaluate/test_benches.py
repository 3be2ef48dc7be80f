from __future__ import annotations

from pathlib import Path

import pytest

from aha.data.problems import BadGold, is_held_out, save_problems, split_key
from aha.errors import UsageError
from aha.evaluate.benches import BENCHES, Bench, load_bench
from aha.records import Problem
from aha.report.evaluation import bench_label
from aha.tasks import number
from aha.tasks.checkers import checker_of


@pytest.mark.parametrize("name", BENCHES)
def test_built_in_benches_are_held_out_distinct_and_solvable(name: str) -> None:
    problems = load_bench(name, limit=60)
    assert len(problems) == 60 == len({(p.id, p.language) for p in problems})
    assert all(is_held_out(split_key(p)) and checker_of(p).is_correct(p, p.answer) for p in problems)
    assert load_bench(name, limit=10) == problems[:10]


def test_a_file_is_a_bench_and_an_unknown_name_gets_a_hint(tmp_path: Path) -> None:
    problems = [number.addition(1, 2), number.addition(3, 4)]
    save_problems(tmp_path / "mine.jsonl", problems)
    assert load_bench(str(tmp_path / "mine.jsonl"), limit=None) == problems
    assert load_bench(str(tmp_path / "mine.jsonl"), limit=1) == problems[:1]
    for name, label in (
        ("math500=data/test.jsonl", "math500"), ("my/set.jsonl.gz", "set"), ("gym:leg_counting", "gym-leg_counting"),
        ("split=test/part.jsonl", "part"), ("/runs/lr=3/t.jsonl", "t"),
    ):  # fmt: skip
        assert Bench(name, (), 1).label == label and "/" not in bench_label(name)
    with pytest.raises(UsageError, match="did you mean 'chain'"):
        load_bench("chian", limit=None)


def test_bad_golds_of_a_file_are_left_out_and_handed_over(tmp_path: Path) -> None:
    problems = [Problem(str(i), f"q{i}", gold, "math") for i, gold in enumerate(("x+1", "x +* /", "7"))]
    save_problems(tmp_path / "mine.jsonl", problems)
    dropped: list[BadGold] = []
    assert load_bench(str(tmp_path / "mine.jsonl"), limit=None, dropped=dropped) == [problems[0], problems[2]]
    assert [(bad.row, bad.gold) for bad in dropped] == [(2, "x +* /")]


def test_a_family_of_reasoning_gym_is_a_bench_of_held_out_questions() -> None:
    pytest.importorskip("reasoning_gym")
    problems = load_bench("gym:leg_counting", limit=10)
    assert len(problems) == 10 and all(is_held_out(split_key(p)) for p in problems)


@pytest.mark.parametrize(("family", "limit", "least"), [("coin_flip", 50, 5), ("jugs", 1, 1), ("gsm_symbolic", 2, 2)])
def test_a_family_of_few_questions_asks_each_once(family: str, limit: int, least: int) -> None:
    pytest.importorskip("reasoning_gym")
    problems = load_bench(f"gym:{family}", limit=limit)
    assert least <= len(problems) == len({p.prompt for p in problems}) <= limit
    assert load_bench(f"gym:{family}", limit=1) == problems[:1]
