from __future__ import annotations

from pathlib import Path

import pytest

from aha.data.problems import is_held_out, save_problems, split_key
from aha.errors import UsageError
from aha.evaluate.benches import BENCHES, load_bench
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
    with pytest.raises(UsageError, match="did you mean 'chain'"):
        load_bench("chian", limit=None)
