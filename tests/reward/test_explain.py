from __future__ import annotations

from pathlib import Path

import pytest

from aha.errors import UsageError
from aha.records import Status
from aha.reward.explain import Compared, explain, find_problem
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
