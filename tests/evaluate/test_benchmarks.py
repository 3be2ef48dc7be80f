r"""Own rows in the form of every published benchmark: each is read, and known responses score what they must."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from aha.data.decontaminate import Benchmark, read_questions
from aha.errors import DataError, UsageError
from aha.evaluate.benches import NUM_SAMPLES, open_bench
from aha.evaluate.benchmarks import (
    BENCHMARKS,
    BOXED,
    CHOICE,
    FUNCTION,
    MAX_NEW_TOKENS,
    PROGRAM,
    load_benchmark_problems,
)
from aha.evaluate.benchmarks import ROLES as ASKED_ROLES
from aha.evaluate.contamination import contamination
from aha.evaluate.rows import read_rows
from aha.records import Problem, Status
from aha.reward.accuracy import judge_accuracy
from aha.reward.response import read_response

Row = Mapping[str, Any]
THOUGHT = "<think>\nfirst I take \\boxed{0}, wait.\n</think>\n\n"
GPQA = {
    "Question": "Which of these is a noble gas?",
    "Correct Answer": "neon",
    "Incorrect Answer 1": "iron",
    "Incorrect Answer 2": "zinc",
    "Incorrect Answer 3": "gold",
    "Record ID": "rec1",
    "High-level domain": "Chemistry",
}
ROLES = "(1) Ann is a knight\n(2) Ben is a knave"
HUMANEVAL = {
    "task_id": "HumanEval/900",
    "prompt": 'def twice(n: int) -> int:\n    """Two times n."""\n',
    "canonical_solution": "    return 2 * n\n",
    "test": "def check(candidate):\n    assert candidate(4) == 8\n",
    "entry_point": "twice",
}
MBPP = {"task_id": 901, "text": "Write twice.", "code": "def twice(n):\n    return 2 * n", "test_setup_code": "",
        "test_list": ["assert twice(3) == 6"]}  # fmt: skip

# benchmark, row, right final parts, wrong final parts
FIXTURES: list[tuple[str, Row, Sequence[str], Sequence[str]]] = [
    ("aime2024", {"id": "a-1", "problem": "q", "answer": "204"}, [r"\boxed{204}"], [r"\boxed{205}", "204"]),
    ("aime2025", {"ID": "2025-I-1", "Problem": "q", "Answer": 70}, [r"\boxed{070}"], [r"\boxed{7}"]),
    ("amc", {"id": "c-1", "problem": "q", "answer": "27", "url": "u"}, [r"so \boxed{27}."], [r"\boxed{28}"]),
    ("math500", {"unique_id": "m/1", "problem": "q", "answer": r"\frac{1}{2}", "level": 3, "subject": "Algebra"},
     [r"\boxed{0.5}", r"\boxed{\frac{2}{4}}"], [r"\boxed{2}"]),
    ("math500", {"problem": "q", "solution": r"so \boxed{x+2}."}, [r"\boxed{2+x}"], [r"\boxed{x-2}"]),
    ("gsm8k", {"question": "q", "answer": "3 * 4 = <<3*4=12>>12\n#### 1,250"},
     [r"\boxed{1250}", r"\boxed{\$1,250}", "The answer is 1250 dollars."], [r"\boxed{125}", r"\boxed{1250 or 12}"]),
    ("svamp", {"id": "s-1", "problem": "q", "answer": "145"}, [r"\boxed{145}"], [r"\boxed{144}"]),
    ("svamp", {"ID": "chal-1", "Body": "Each pack costs 76 dollars.", "Question": "What do 2 packs cost?",
               "Equation": "( 76.0 * 2.0 )", "Answer": 152.0, "Type": "Multiplication"},
     [r"\boxed{152}"], [r"\boxed{76}"]),
    ("cmath", {"input": "小勇", "golden": "68"}, [r"\boxed{68}"], [r"\boxed{86}"]),
    ("cmath", {"id": "z-1", "problem": "小勇", "answer": "68", "lang": "zh"}, [r"\boxed{68}"], [r"\boxed{86}"]),
    ("mgsm", {"id": "mgsm-sw-001", "problem": "q", "answer": "3", "lang": "sw"}, [r"\boxed{3}"], [r"\boxed{2}"]),
    ("mgsm", {"question": "q", "answer": None, "answer_number": 3}, [r"\boxed{3}"], [r"\boxed{30}"]),
    ("minerva", {"id": "o-1", "problem": "q", "answer": "4.5e33"}, [r"\boxed{4.5 \times 10^{33}}"], [r"\boxed{4.5}"]),
    ("olympiadbench", {"id": "b-1", "problem": "q", "answer": "4.2", "tolerance": "1e-1", "unit": "%"},
     [r"\boxed{4.2}", r"\boxed{4.25\%}"], [r"\boxed{4.31}"]),
    ("olympiadbench", {"id": "b-2", "problem": "q", "answer": "1; 3", "multiple": True},
     [r"\boxed{3, 1}"], [r"\boxed{1}", r"\boxed{1,3,5}"]),
    ("olympiadbench", {"question": "q", "final_answer": ["$7$"], "error": None}, [r"\boxed{7}"], [r"\boxed{8}"]),
    ("olympiadbench", {"question": "q", "final_answer": ["$0.35$, $12$"], "error": "1e-1,1"},
     [r"\boxed{0.35, 12}", r"\boxed{0.4, 12.9}"], [r"\boxed{0.6, 12}", r"\boxed{0.4}", r"\boxed{0.4, 14}"]),
    ("gpqa", GPQA, [], []),
    ("knights_knaves", {"id": "k-1", "problem": "q", "answer": ROLES},
     [r"\boxed{(1) Ann is a knight, (2) Ben is a knave}"], [r"\boxed{(1) Ann is a knave, (2) Ben is a knave}"]),
    ("knights_knaves", {"quiz": "q", "names": ["Ann", "Ben"], "solution": [True, False]},
     [r"\boxed{(2) Ben is a knave, (1) Ann is a knight}"], [r"\boxed{(1) Ann is a knight}"]),
]  # fmt: skip


def write(path: Path, rows: Sequence[Row]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def statuses(problem: Problem, finals: Sequence[str]) -> list[Status]:
    """Judged as a model's response would be whose prompt has opened the thinking."""
    said = [read_response(THOUGHT.removeprefix("<think>\n") + final, prompt_tail="<think>\n") for final in finals]
    return [verdict.status for verdict in judge_accuracy([problem] * len(said), said)]


@pytest.mark.parametrize(("name", "row", "right", "wrong"), FIXTURES)
def test_known_responses_score_what_they_must(
    tmp_path: Path, name: str, row: Row, right: Sequence[str], wrong: Sequence[str]
) -> None:
    (problem,) = load_benchmark_problems(name, write(tmp_path / "own.jsonl", [row]))
    if name == "gpqa":
        letter = problem.answer
        assert f"{letter}) neon" in problem.prompt and problem.meta["subject"] == "Chemistry"
        right, wrong = [f"Answer: {letter}", rf"\boxed{{{letter}}}"], [f"Answer: {'ABCD'.replace(letter, '')[0]}"]
    assert problem.id and statuses(problem, right) == [Status.RIGHT] * len(right)
    assert statuses(problem, wrong) == [Status.WRONG] * len(wrong)
    if problem.task in ("math", "word_problem"):
        assert problem.prompt.endswith(f"\n{BOXED}")


def test_a_question_has_its_story(tmp_path: Path) -> None:
    svamp = {"Body": "Each pack costs 76 dollars.", "Question": "What do 2 packs cost?", "Answer": 152.0}
    (problem,) = load_benchmark_problems("svamp", write(tmp_path / "s.jsonl", [svamp]))
    assert problem.prompt == f"Each pack costs 76 dollars. What do 2 packs cost?\n{BOXED}"
    assert problem.meta["question"] == "Each pack costs 76 dollars. What do 2 packs cost?"
    falling = {"context": "A ball of 2 kg falls 5 m.", "question": "Find v.", "final_answer": ["10"]}
    (problem,) = load_benchmark_problems("olympiadbench", write(tmp_path / "o.jsonl", [falling]))
    assert problem.prompt.startswith("A ball of 2 kg falls 5 m.\n\nFind v.")


def test_programs_are_run_with_the_tests_of_their_row(tmp_path: Path) -> None:
    right, wrong = (f"```python\ndef twice(n):\n    return {factor} * n\n```" for factor in (2, 3))
    for name, row in (("humaneval", HUMANEVAL), ("mbpp", MBPP)):
        (problem,) = load_benchmark_problems(name, write(tmp_path / f"{name}.jsonl", [row]))
        assert statuses(problem, [right, wrong]) == [Status.RIGHT, Status.WRONG]


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, row, *_ in FIXTURES] + [("humaneval", HUMANEVAL)])
def test_what_we_ask_beside_a_question_is_neither_a_leak_nor_in_its_way(tmp_path: Path, name: str, row: Row) -> None:
    """As decontamination finds, which reads the same rows."""
    bench = write(tmp_path / "bench.jsonl", [row])
    problems = load_benchmark_problems(name, bench)
    beside = [CHOICE.format(letters="ABCD"), BOXED, ASKED_ROLES, PROGRAM, FUNCTION]
    others = write(tmp_path / "others.jsonl", [{"problem": f"Compute the integral of x. {text}"} for text in beside])
    strict = Benchmark.of(read_questions([bench]), "ngram", 8)
    for file, count in ((bench, 1), (others, 0)):
        found = contamination({name: problems}, [Path(file)])[name]
        assert (found["questions"], found["leaked"], found["equal"]) == (1, count, count)
        assert [strict.meets(text) is not None for _, text in read_questions([file])].count(True) == count


def test_the_question_of_mbpp_goes_by_the_name_of_its_authors(tmp_path: Path) -> None:
    problems = load_benchmark_problems("mbpp", write(tmp_path / "bench.jsonl", [MBPP]))
    trained = write(tmp_path / "trained.jsonl", [{"problem": MBPP["text"]}])
    assert contamination({"mbpp": problems}, [Path(trained)])["mbpp"]["equal"] == 1


def test_every_benchmark_has_a_fixture() -> None:
    assert {name for name, *_ in FIXTURES} | {"humaneval", "mbpp"} == BENCHMARKS.keys()


def test_language_and_level_are_kept_and_ids_are_given(tmp_path: Path) -> None:
    rows = [{"problem": "a", "answer": "1", "level": 2}, {"problem": "b", "answer": "2", "lang": "zh"}]
    first, second = load_benchmark_problems("math500", write(tmp_path / "own.jsonl", rows))
    assert (first.id, second.id, second.language) == ("math500/1", "math500/2", "zh") and first.meta["level"] == 2


def test_the_same_rows_come_from_every_kind_of_file(tmp_path: Path) -> None:
    rows = [{"id": "1", "problem": "a, b", "answer": "1"}, {"id": "2", "problem": 'say "c"', "answer": "2"}]
    write(tmp_path / "1.jsonl", rows)
    (tmp_path / "2.json").write_text(json.dumps(rows))
    with (tmp_path / "3.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "4.parquet")
    files = sorted(tmp_path.iterdir())
    assert all(read_rows(str(file)) == rows for file in files) and len(files) == 4
    assert read_rows(str(tmp_path)) == rows * 4
    with pytest.raises(UsageError, match="'1' is there twice"):
        load_benchmark_problems("math500", str(tmp_path))


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "own.jsonl", [{"problem": "q", "answer": "1"}, {"problem": "q", "answer": "many"}])
    with pytest.raises(DataError, match="row 2, as GSM8K.*no single number"):
        load_benchmark_problems("gsm8k", path)
    with pytest.raises(DataError, match="row 1, as GPQA.*Correct Answer"):
        load_benchmark_problems("gpqa", path)
    with pytest.raises(DataError, match="no such file"):
        read_rows(str(tmp_path / "none.jsonl"))
    with pytest.raises(UsageError, match="give your copy, math500=FILE"):
        open_bench("math500", limit=None, samples=None, max_new_tokens=None)


def test_a_bench_takes_the_published_samples_and_length_unless_told(tmp_path: Path) -> None:
    rows = [{"id": str(i), "problem": "q", "answer": gold} for i, gold in enumerate(("1", "x +* /", "3"))]
    path = write(tmp_path / "own.jsonl", rows)
    bench = open_bench(f"aime2024={path}", limit=None, samples=None, max_new_tokens=None)
    assert (bench.label, bench.samples, bench.max_new_tokens, bench.most_new_tokens) == (
        "aime2024", 64, None, MAX_NEW_TOKENS,
    )  # fmt: skip
    assert [p.id for p in bench.problems] == ["0", "2"] and [bad.row for bad in bench.dropped] == [2]
    told = open_bench(f"aime2024={path}", limit=1, samples=3, max_new_tokens=9)
    assert (len(told.problems), told.samples, told.max_new_tokens) == (1, 3, 9)
    assert open_bench("chain", limit=2, samples=None, max_new_tokens=None).samples == NUM_SAMPLES


def test_the_language_of_mgsm_is_that_of_its_script_where_no_row_says_it(tmp_path: Path) -> None:
    questions = ["罗杰有五个网球。他现在有多少个?", "Roger has five balls.", "У Роджера пять мячей."]
    rows = [{"question": question, "answer_number": 11} for question in questions]
    problems = load_benchmark_problems("mgsm", write(tmp_path / "m.jsonl", rows))
    assert [problem.language for problem in problems] == ["zh", "en", "other"]
