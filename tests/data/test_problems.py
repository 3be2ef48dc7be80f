"""Problem files name what cannot be used; no problem is on both sides of the split."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from aha.data.dataset import Output, build
from aha.data.dedup import Dedup
from aha.data.files import encode_rows
from aha.data.problems import (
    arithmetic_problems,
    check_keys,
    is_held_out,
    load_checked,
    load_problems,
    save_problems,
    split_by_hash,
    spread,
    toy_general,
    toy_problem,
    toy_sets,
)
from aha.errors import DataError, VerifierError
from aha.records import Problem
from aha.tasks import mathematics
from aha.tasks.checkers import checker_of
from aha.testing import few_problems
from aha.util.workers import Workers


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_problems_survive_the_file(tmp_path: Path) -> None:
    problems = few_problems()
    save_problems(tmp_path / "p.jsonl", problems)
    assert load_problems(tmp_path / "p.jsonl") == problems


def test_names_of_other_data_sets_and_gz_are_read(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(json.dumps({"question": " How many? ", "answer": 0, "level": 3, "source": "x"}) + "\n\n")
    (problem,) = load_problems(path)
    assert (problem.prompt, problem.answer, problem.task) == ("How many?", "0", "number")
    assert problem.meta == {"level": 3, "source": "x"}


def test_fields_that_a_table_has_for_other_rows_alone_are_not_there(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("id", "language", "task", "level"))
    rows = [{"question": f"{i} + 1?", "answer": i + 1} | nothing for i in (1, 2)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = load_problems(tmp_path / "p.jsonl")
    assert [(p.id, p.language, p.task, p.meta) for p in problems] == [
        (f"p.jsonl/{i}", "en", "number", {}) for i in (1, 2)
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "5"}, "no 'problem'"),
        ({"problem": "  ", "answer": "5"}, "no 'problem'"),
        ({"problem": 5, "answer": "5"}, "no 'problem'"),
        ({"problem": "x"}, "no 'answer'"),
        ({"problem": "x", "answer": ""}, "no 'answer'"),
        ({"problem": "x", "answer": None}, "no 'answer'"),
        ({"problem": "x", "answer": ["5"]}, "neither text nor a number"),
        ({"problem": "x", "answer": True}, "neither text nor a number"),
        ({"problem": "x", "answer": "five"}, "does not accept the row's own answer 'five'"),
        ({"problem": "x", "answer": "5 or 6"}, "does not accept"),
        ({"problem": "x", "answer": "so 2 + 3 = 5\n#### 5"}, "does not accept"),
        ({"problem": "x", "answer": "-5", "task": "chain"}, "does not accept"),
        ({"problem": "x", "answer": "5", "task": "numbers"}, "did you mean 'number'"),
        ({"problem": "x", "answer": "5", "language": "fr"}, "language 'fr'"),
        ({"problem": "x", "answer": "2 + 3", "task": "countdown"}, "lacks a field"),
        ({"problem": "x", "answer": "2 + 3", "task": "countdown", "numbers": 5, "target": 5}, "lacks a field"),
        ({"problem": "x", "answer": "2 + 2", "task": "countdown", "numbers": [2, 3], "target": 5}, "does not accept"),
        ({"problem": "x", "task": "general"}, "lacks a field"),
        ({"problem": "x", "task": "general", "kind": "poem", "thing": "a b", "verb": "c"}, "does not accept"),
    ],
)
def test_a_bad_row_is_named_with_its_file_and_number(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", {"problem": "fine", "answer": "1"}, row)
    with pytest.raises(DataError, match=r"mine\.jsonl, row 2: ") as caught:
        load_problems(path)
    assert message in str(caught.value)


def test_two_problems_have_two_ids(tmp_path: Path) -> None:
    """An id may stand once in each language, and a row twice."""
    row = {"id": "a", "problem": "1 + 1", "answer": "2"}
    fine = load_problems(write(tmp_path / "fine.jsonl", row, row, {**row, "language": "zh", "problem": "一加一"}))
    assert [problem.key for problem in fine] == ["a/en", "a/en", "a/zh"]
    other = {**row, "problem": "1 + 2", "answer": "3"}
    said = "bad.jsonl, row 2: the id 'a' has '1 \\+ 2' here and '1 \\+ 1' in .*bad.jsonl, row 1"
    with pytest.raises(DataError, match=said):
        load_problems(write(tmp_path / "bad.jsonl", row, other))
    check_keys({"one": fine, "two": fine[:1]})
    with pytest.raises(DataError, match="two: the id 'a' has '1 \\+ 2' here and '1 \\+ 1' in one; .*another id"):
        check_keys({"one": fine, "two": load_problems(write(tmp_path / "other.jsonl", other))})


def test_the_same_problems_come_from_every_format_and_from_a_folder_of_a_data_set(tmp_path: Path) -> None:
    rows = [{"id": f"p{i}", "problem": f"What is 2 + {i} ?", "answer": str(2 + i)} for i in range(4)]
    wanted = load_problems(write(tmp_path / "mine.jsonl", *rows))
    for form in ("jsonl.gz", "jsonl.zst", "parquet"):
        (tmp_path / f"own.{form}").write_bytes(encode_rows(rows, form))
        assert load_problems(tmp_path / f"own.{form}") == wanted
        build(Dedup(), [str(tmp_path / "mine.jsonl")], Output(tmp_path / form, form, 3), lambda *_: None)
        kept = load_problems(tmp_path / form)
        assert [(p.id, p.prompt, p.answer) for p in kept] == [(p.id, p.prompt, p.answer) for p in wanted]


def test_files_that_are_no_problem_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no rows"):
        load_problems(write(tmp_path / "empty.jsonl"))
    with pytest.raises(DataError, match="no such file"):
        load_problems(tmp_path / "missing.jsonl")
    (tmp_path / "torn.jsonl").write_text('{"problem": "x", "ans', encoding="utf-8")
    with pytest.raises(DataError, match=r"torn\.jsonl:1"):
        load_problems(tmp_path / "torn.jsonl")
    (tmp_path / "list.jsonl").write_text("[1]\n", encoding="utf-8")
    with pytest.raises(DataError, match="expected an object"):
        load_problems(tmp_path / "list.jsonl")


def test_the_split_depends_on_the_id_alone_and_holds_a_tenth_out() -> None:
    ids = [f"p/{i}" for i in range(5_000)]
    share = sum(map(is_held_out, ids)) / len(ids)
    assert 0.08 < share < 0.12
    # Frozen: another split would put problems that published models were trained on among those they are tested with.
    assert [i for i in ids[:60] if is_held_out(i)] == [f"p/{i}" for i in (10, 17, 22, 28, 42, 55, 56)]


def test_a_question_on_both_sides_is_held_out() -> None:
    train_id = next(f"p/{i}" for i in range(100) if not is_held_out(f"p/{i}"))
    test_id = next(f"p/{i}" for i in range(100) if is_held_out(f"p/{i}"))
    twins = [Problem(train_id, "same", "1", "number"), Problem(test_id, "same", "1", "number")]
    other = Problem(train_id + "/b", "other", "1", "number")
    train, test = split_by_hash([*twins, other])
    assert "same" not in {p.prompt for p in train}
    assert [p.id for p in test if p.prompt == "same"] == [test_id]


def test_toy_sets_are_disjoint_distinct_bilingual_and_right() -> None:
    sets = toy_sets(random.Random(0), train=600, test=60, general_train=300, general_test=40)
    assert [len(sets[name]) for name in ("train", "test", "general_train", "general_test")] == [600, 60, 300, 40]
    for name, problems in sets.items():
        assert len({(p.id, p.language) for p in problems}) == len(problems)
        assert abs(sum(p.language == "en" for p in problems) - len(problems) / 2) <= 1
        assert all(is_held_out(p.id) == name.endswith("test") for p in problems)
    assert not {p.id for p in sets["train"]} & {p.id for p in sets["test"]}
    assert {p.task for p in sets["train"]} == {"chain", "countdown"}
    for problem in sets["train"] + sets["test"]:
        assert checker_of(problem).is_correct(problem, problem.answer)


def test_toy_sets_depend_on_the_seed_alone() -> None:
    sizes = {"train": 20, "test": 5, "general_train": 10, "general_test": 5}
    assert toy_sets(random.Random(1), **sizes) == toy_sets(random.Random(1), **sizes)
    assert toy_sets(random.Random(1), **sizes) != toy_sets(random.Random(2), **sizes)


def test_more_than_there_is_is_an_error() -> None:
    with pytest.raises(DataError, match="ask for fewer"):
        toy_sets(random.Random(0), train=1, test=1, general_train=1, general_test=2_000)


def test_single_draws_keep_their_side() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        for held_out in (False, True):
            assert is_held_out(toy_problem(rng, held_out=held_out).id) == held_out
            assert is_held_out(toy_general(rng, held_out=held_out).id) == held_out


def test_problems_with_the_same_key_are_on_one_side() -> None:
    train, test = split_by_hash(arithmetic_problems())
    for side in (train, test):
        asked = {(p.meta["family"], *p.meta["operands"]) for p in side}
        assert all((family, b, a) in asked for family, a, b in asked)
    numbers = {tuple(sorted(p.meta["numbers"])) + (p.meta["target"],) for p in countdowns(held_out=False)}
    assert numbers and not numbers & {
        tuple(sorted(p.meta["numbers"])) + (p.meta["target"],) for p in countdowns(held_out=True)
    }


def countdowns(*, held_out: bool) -> list[Problem]:
    rng = random.Random(held_out)
    return [p for _ in range(2_000) if (p := toy_problem(rng, held_out=held_out)).task == "countdown"]


def test_the_first_of_spread_problems_are_of_every_kind() -> None:
    problems = arithmetic_problems()
    chosen = spread(problems, random.Random(0))
    assert sorted(p.id for p in chosen) == sorted(p.id for p in problems)
    kinds = Counter((p.meta["family"], p.meta["level"]) for p in chosen[:40])
    assert kinds == {("product", 1): 10, ("sum", 1): 10, ("sum", 2): 10, ("sum", 3): 10}


def test_arithmetic_covers_its_levels_once() -> None:
    problems = arithmetic_problems()
    assert len({p.id for p in problems}) == len({p.prompt for p in problems}) == len(problems)
    assert {p.meta["level"] for p in problems} == {1, 2, 3}
    train, test = split_by_hash(problems)
    assert len(train) + len(test) == len(problems)


def test_formulas_that_no_answer_can_equal_are_left_out_and_listed(tmp_path: Path) -> None:
    golds = ["x+1", "x +* /", "7", "12:00", "\\frac{", "B"]
    rows = [{"problem": f"q{i}", "answer": gold, "task": "math"} for i, gold in enumerate(golds)]
    path = write(tmp_path / "mine.jsonl", *rows, {"problem": "n", "answer": "5"})
    kept, dropped = load_checked(path)
    assert [p.answer for p in kept] == ["x+1", "7", "B", "5"]
    assert [(bad.file, bad.row, bad.gold) for bad in dropped] == [
        (str(path), 2, "x +* /"), (str(path), 4, "12:00"), (str(path), 5, "\\frac{"),
    ]  # fmt: skip
    assert "cannot be read" in dropped[0].why and "not equal" in dropped[1].why
    assert len(load_problems(path)) == 7  # a stage's own file has been checked


def test_a_file_of_bad_golds_alone_is_an_error_with_the_first(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", *[{"problem": "q", "answer": "x +* /", "task": "math"}] * 3)
    with pytest.raises(DataError, match=r"mine\.jsonl: none of the 3 golds.*row 1: 'x \+\* /'.*cannot be read"):
        load_checked(path)


def test_other_tasks_stay_strict(tmp_path: Path) -> None:
    rows = {"problem": "q", "answer": "7"}, {"problem": "q", "answer": "K", "task": "choice"}
    path = write(tmp_path / "mine.jsonl", *rows)
    with pytest.raises(DataError, match="row 2: the checker of task 'choice' does not accept"):
        load_checked(path)


def test_golds_that_nobody_can_judge_are_not_blamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mathematics, "POOL", Workers("nowhere:nothing", deadline=1.0))
    path = write(tmp_path / "mine.jsonl", {"problem": "q", "answer": "u+v", "task": "math"})
    with pytest.raises(VerifierError, match="No module named 'nowhere'"):
        load_checked(path)
