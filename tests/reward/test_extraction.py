"""Where the answer of a response is found, in which order, and where it is not looked for."""

from __future__ import annotations

import pytest

from aha.records import Problem
from aha.reward.extraction import Found, find_answer, last_box
from aha.reward.response import read_response

MATH = Problem("m", "?", "7", "math")
NUMBER = Problem("n", "?", "7", "number")


@pytest.mark.parametrize(
    ("text", "answer", "rule"),
    [
        ("<think> a </think> <answer> 7 </answer>", "7", "answer tag"),
        ("<think> a </think> <answer> so \\boxed{6} and \\boxed{7} </answer>", "7", "box in the answer tag"),
        ("<think> a </think> \\boxed{6} <answer> 7 </answer> \\boxed{8}", "7", "answer tag"),
        ("<think> a </think> <answer> The final answer is: $7$. </answer>", "$7$", "phrase in the answer tag"),
        ("<think> a </think> <answer> not the answer is 7 </answer>", "not the answer is 7", "answer tag"),
        ("<think> \\boxed{6} </think> so \\boxed{7}", "7", "box"),
        ("<think> a </think> \\boxed{\\frac{1}{2}} done", "\\frac{1}{2}", "box"),
        ("<think> a </think> \\boxed{7} or \\boxed{8", "7", "box"),
        ("<think> a </think> \\boxed{\\text{a \\} b}}", "\\text{a \\} b}", "box"),
        ("no tags at all: \\boxed{7}", "7", "box"),
        ("a </think> The answer is 6. No, the answer is $7.5$. Done.", "$7.5$", "phrase"),
        ("Final answer: **7**\nThat is all", "7", "phrase"),
        ("The answer is \\boxed{7}, as 8 is not", "7", "box"),
    ],
)
def test_found(text: str, answer: str, rule: str) -> None:
    assert find_answer(MATH, read_response(text)) == Found(answer, rule)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "<think> \\boxed{7}",
        "<think> \\boxed{7} </think>",
        "<think> the answer is 7 </think> done",
        "<think> a </think> <answer> 7 </answer> <answer> 7 </answer>",
        "<think> a </think> \\boxed{7} <answer> </answer>",
        "<think> a </think> \\boxed{7} <answer> 7",
        "<think> a </think> \\boxed{7",
        "a </think> b </think> \\boxed{7}",
        "the answer is",
    ],
)
def test_not_found(text: str) -> None:
    assert find_answer(MATH, read_response(text)) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2 + 5 = 7\n#### 7", Found("7", "line of ####")),
        ("the answer is 6\n####  $1,250.50 \n\n", Found("$1,250.50", "line of ####")),
        ("#### 6\n#### 7", Found("7", "line of ####")),
        ("\\boxed{6}\n#### 7", Found("6", "box")),
        ("#### Step 1\nthe answer is 7", Found("7", "phrase")),
        ("#### 7 or 8", None),
        ("<think> a\n#### 7", None),
    ],
)
def test_a_word_problem_may_end_as_gsm8ks_solutions_do(text: str, found: Found | None) -> None:
    assert find_answer(Problem("w", "?", "7", "word_problem"), read_response(text)) == found
    if found and found.rule == "line of ####":
        other = find_answer(MATH, read_response(text))
        assert other is None or other.rule != found.rule  # there it may be a heading


@pytest.mark.parametrize(
    ("task", "text", "found"),
    [
        ("choice", "E = \\boxed{3.2\\,eV}\nAnswer: B", Found("B", "phrase")),
        ("choice", "so \\boxed{\\text{C}}", Found("\\text{C}", "box")),
        ("word_problem", "The answer is 18. Let me know if the answer is unclear!", Found("18", "phrase")),
        ("math", "The answer is 18.\n\n**Note:** check that your answer is positive.", Found("18", "phrase")),
        ("math", "The answer is 18. No, the answer is $x+1$.", Found("$x+1$", "phrase")),
        ("math", "The answer is 18. No, the answer is B.", Found("B", "phrase")),
        ("math", "The answer is even.", Found("even", "phrase")),
    ],
)
def test_a_remark_or_a_formula_on_the_way_is_not_the_answer(task: str, text: str, found: Found) -> None:
    assert find_answer(Problem("p", "q", "1", task), read_response(text)) == found


def test_tasks_with_a_fixed_form_need_the_tag() -> None:
    assert find_answer(NUMBER, read_response("<think> a </think> \\boxed{7}")) is None
    assert find_answer(NUMBER, read_response("<answer> \\boxed{7} </answer>")) == Found("\\boxed{7}", "answer tag")


def test_a_prompt_that_opens_the_thinking_leaves_a_cut_one_without_answer() -> None:
    assert find_answer(MATH, read_response("\\boxed{7}", prompt_tail="<think>\n")) is None
    assert find_answer(MATH, read_response("a </think> \\boxed{7}", prompt_tail="<think>\n")) == Found("7", "box")


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("\\boxed{}", ""),
        ("\\boxed{a{b}c}", "a{b}c"),
        ("\\fbox {7}", "7"),
        ("boxed{7}", None),
        ("so $\\boxed 5$, not \\boxed{4}", "4"),
        ("\\boxed{4}, so $\\boxed 1/2$", "1/2"),
        ("the answer is \\boxed B.", "B"),
        ("\\boxed answers are \\boxed{4} here", "4"),
    ],
)
def test_last_box(text: str, inside: str | None) -> None:
    assert last_box(text) == inside
