"""What is read from a completion, however it abuses the tags."""

from __future__ import annotations

import pytest

from aha.reward.response import Response, read_response

GOOD = "<think> 2 + 3 = 5 . </think> <answer> 5 </answer>"


@pytest.mark.parametrize(
    "text", [GOOD, f"  {GOOD}\n", "<think>2 + 3 = 5 .</think><answer>5</answer>", GOOD.replace("> <", ">\n\n<")]
)
def test_the_format_is_read(text: str) -> None:
    assert read_response(text) == Response("2 + 3 = 5 .", "5", True)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", None),
        ("5", None),
        ("<answer> 5 </answer>", "5"),
        ("2 + 3 <answer> 5 </answer>", "5"),
        ("<think> a <answer> 5 </answer>", "5"),
        ("a </think> <answer> 5 </answer>", "5"),
        ("<think> a </think> 5", None),
        ("<think> a </think> <answer> 5", None),
        ("<think> a </think> 5 </answer>", None),
        ("<think> a </think> <answer> </answer>", None),
        ("<think> </think> <answer> 5 </answer>", "5"),
        ("<think> a </think> so <answer> 5 </answer>", "5"),
        ("well <think> a </think> <answer> 5 </answer>", "5"),
        (f"{GOOD} and more", "5"),
        (f"{GOOD} {GOOD}", None),
        ("<think> a </think> <answer> 4 </answer> <answer> 5 </answer>", None),
        ("<think> a </think> <answer> <answer> 5 </answer>", None),
        ("<think> a </think> <answer> <answer> 5 </answer> </answer>", None),
        ("<think> <think> a </think> </think> <answer> 5 </answer>", "5"),
        ("<think> a </think> <think> b </think> <answer> 5 </answer>", "5"),
        ("<answer> 5 </answer> <think> a </think>", "5"),
        ("</think> a <think> <answer> 5 </answer>", "5"),
        ("<think> a </think> </answer> 5 <answer>", None),
        ("<answer> <think> a </think> 5 </answer>", None),
        ("<think> <answer> 5 </answer> a </think>", "5"),
        ("<think> a <answer> 5 </think> </answer>", None),
        ("<Think> a </Think> <Answer> 5 </Answer>", None),
        ("<think> a </think> < answer > 5 < /answer >", None),
    ],
)
def test_broken_tags_are_never_well_formed(text: str, answer: str | None) -> None:
    response = read_response(text)
    assert response.answer == answer
    assert not response.well_formed


def test_the_thinking_is_everything_before_the_answer_when_tags_are_broken() -> None:
    assert read_response("so <think> a b <answer> 5 </answer>").think == "so   a b"
    assert read_response("just words").think == "just words"
    assert "<think>" not in read_response("<think> <think> a").think


def test_a_prompt_that_opens_the_thinking_counts() -> None:
    rest = GOOD.removeprefix("<think> ")
    assert read_response(rest, prompt_tail="Assistant : <think>\n") == Response("2 + 3 = 5 .", "5", True)
    assert not read_response(rest, prompt_tail="Assistant :").well_formed
    assert not read_response(GOOD, prompt_tail="Assistant : <think>").well_formed  # opened twice


@pytest.mark.parametrize("tail", ["<think>\n", "<|assistant|>\n<think>\n", "<think>\n\n", "<think>"])
@pytest.mark.parametrize("lead", ["", "\n", "  "])
def test_every_tag_is_counted_once_when_the_template_prefills_the_first(tail: str, lead: str) -> None:
    read = read_response(f"{lead}2 + 3 = 5 .\n</think>\n\n<answer> 5 </answer>", prompt_tail=tail)
    assert read == Response("2 + 3 = 5 .", "5", True)
    assert read.tags == (1, 1, 1, 1)


def test_tags_are_counted_where_they_stand_or_not() -> None:
    assert read_response(GOOD).tags == (1, 1, 1, 1)
    assert read_response("").tags == (0, 0, 0, 0)
    assert read_response("</answer> 5 <answer> <answer>").tags == (0, 0, 2, 1)
    assert read_response(GOOD, prompt_tail="<think>\n").tags == (2, 1, 1, 1)


def test_a_prompt_that_only_speaks_of_the_tags_does_not_count() -> None:
    tail = "<think> reasoning </think> <answer> answer here </answer>. User: x. Assistant:"
    assert read_response(GOOD, prompt_tail=tail).well_formed


@pytest.mark.parametrize("tail", ["<answer>", "Assistant : </think>", "</answer>"])
def test_any_other_tag_at_the_end_of_the_prompt_spoils_the_format(tail: str) -> None:
    assert not read_response(GOOD, prompt_tail=tail).well_formed
