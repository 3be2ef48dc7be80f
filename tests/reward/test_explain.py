from __future__ import annotations

from pathlib import Path

import pytest

from aha.errors import UsageError
from aha.records import Status
from aha.reward.explain import Compared, explain, find_problem
from aha.reward.extraction import Found
from aha.util.files import append_jsonl


def test_a_bare_number_is_compared_as_a_number() -> None:
    found = explain(find_problem("1250.50", task="number"), "$1,250.5 in all")
    assert found.compared == (Compared("number", "2501/2", "2501/2"),)
    assert found.accuracy.status is Status.RIGHT and found.format is None and found.remark == ""


def test_a_completion_is_read_by_its_tags() -> None:
    found = explain(find_problem("14", task="chain"), "<think> 9 + 5 </think> <answer> 15 </answer>")
    assert (found.response.think, found.response.answer) == ("9 + 5", "15")
    assert found.compared == (Compared("whole number", "15", "14"),)
    assert found.accuracy.status is Status.WRONG
    assert found.format is not None and found.format.status is Status.RIGHT


@pytest.mark.parametrize("text", ["9" * 5000, "0" * 30 + "14", "+14", "14.0"])
def test_a_chain_answer_that_the_checker_cannot_read_is_shown_as_unreadable(text: str) -> None:
    found = explain(find_problem("14", task="chain"), text)
    assert found.compared == (Compared("whole number", "(unreadable)", "14"),)
    assert found.accuracy.status is Status.WRONG and "one whole number of at most 20 digits" in found.remark


def test_countdown_shows_value_and_numbers() -> None:
    problem = find_problem("20 + 7 - 2", task="countdown")
    found = explain(problem, "20 + 5")
    assert found.compared == (Compared("value", "25", "25"), Compared("numbers used", "20 5", "20 7 2"))
    assert found.accuracy.status is Status.WRONG
    assert explain(problem, "7 - 2 + 20").accuracy.status is Status.RIGHT


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<think> 14 </think>", "there is no <answer>"),
        ("<answer> 14", "never closed"),
        ("<answer>14</answer><answer>15</answer>", "2 <answer> and 2 </answer>"),
        ("<answer> </answer>", "empty"),
        ("<think> 9 <answer> 14 </think> </answer>", "a tag stands inside"),
        ("</answer> 14 <answer>", "comes before"),
        ("14 or 15", "exactly one number"),
    ],
)
def test_what_stands_in_the_way_is_said(text: str, words: str) -> None:
    found = explain(find_problem("14", task="number"), text)
    assert words in found.remark and found.accuracy.status is Status.WRONG


def test_a_row_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "my.problems.jsonl"
    append_jsonl(path, {"problem": "what is 1 + 1?", "answer": 2})
    append_jsonl(path, {"problem": "what is 9 + 5?", "answer": 14, "task": "chain"})
    assert find_problem(f"{path}:2", task="number").task == "chain"
    with pytest.raises(UsageError, match="rows 1 to 2, not 3"):
        find_problem(f"{path}:3", task="number")


@pytest.mark.parametrize(
    ("gold", "task", "words"),
    [
        ("14", "chan", "did you mean 'chain'"),
        ("fourteen", "number", "not accepted by the checker"),
        ("make 25", "countdown", "no arithmetic expression"),
    ],
)
def test_golds_that_cannot_be(gold: str, task: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        find_problem(gold, task=task)


def test_a_formula_is_shown_as_text_and_as_it_was_read() -> None:
    found = explain(find_problem("\\frac{x}{2}", task="math"), "<think> a </think> so \\boxed{0.5x}")
    assert found.answer == Found("0.5x", "box") and found.remark == ""
    assert found.compared == (Compared("formula", "0.5x", "\\frac{x}{2}"), Compared("read as", "0.5*x", "x/2"))
    assert found.accuracy.status is Status.RIGHT


def test_why_a_formula_is_wrong_is_said() -> None:
    found = explain(find_problem("7", task="math"), "3 4")
    assert found.compared[1] == Compared("read as", "(unreadable)", "7")
    assert "numbers side by side" in found.remark and found.accuracy.status is Status.WRONG
    assert "another number" in explain(find_problem("7", task="math"), "The answer is 8.").remark


def test_letters_and_roles_are_compared() -> None:
    found = explain(find_problem("B", task="choice"), "C) Rome")
    assert found.compared == (Compared("letter", "C", "B"),) and found.accuracy.status is Status.WRONG
    assert "exactly one letter" in explain(find_problem("B", task="choice"), "A or B").remark
    problem = find_problem("Al is a knight, Bo is a knave", task="knights_knaves")
    found = explain(problem, "Bo is a knight and Cy is a knave")
    assert found.compared == (
        Compared("al", "-", "knight"), Compared("bo", "knight", "knave"), Compared("cy", "knave", "-"),
    )  # fmt: skip
    assert explain(find_problem("Mount Fuji", task="exact"), "mount fuji").accuracy.status is Status.RIGHT


def test_a_formula_that_cannot_be_a_gold() -> None:
    with pytest.raises(UsageError, match="not accepted by the checker"):
        find_problem("x +* /", task="math")
    with pytest.raises(UsageError, match="FILE:ROW"):
        find_problem("7", task="reasoning_gym")


def test_what_looks_like_a_file_is_no_gold(tmp_path: Path) -> None:
    """Its row would be taken for the number that the answer must hold."""
    (tmp_path / "a.csv").write_text("problem,answer\n1 + 2,3\n")
    assert find_problem(f"{tmp_path}/a.csv:1", task="number").answer == "3"
    for reference in ("nope.txt:1", f"{tmp_path}/a.csv:x", f"{tmp_path}/a.csv:", "ok.jsonl:one"):
        with pytest.raises(UsageError, match="give FILE:ROW, a file of problems"):
            find_problem(reference, task="number")
    for gold in ("3:1", "std.vector: x", "x.y:z", "at 3 p.m.:1", f"{'k' * 300}:1"):
        assert find_problem(gold, task="exact").answer == gold
    with pytest.raises(UsageError, match="judged by running them"):
        find_problem("print(1)", task="code")
    found = explain(find_problem("18", task="word_problem"), r"so it is \boxed{18}")
    assert found.accuracy.status is Status.RIGHT
