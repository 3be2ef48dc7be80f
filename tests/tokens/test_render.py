"""One renderer: what the sampler is asked is what the trainer is shown."""

from __future__ import annotations

import pytest

from aha.errors import DataError, SettingError
from aha.testing import byte_tokenizer, word_tokenizer
from aha.tokens.render import R1_ZERO_TEMPLATE, Renderer

QUESTION, COMPLETION = "compute 2 + 3", "<think> 2 + 3 = 5 . </think> <answer> 5 </answer>"


def words(template: str = "User : {question} ? Assistant :") -> Renderer:
    return Renderer(word_tokenizer(), template)


@pytest.mark.parametrize("template", ["", "no place", "{question} {question}", "{Question}"])
def test_a_template_needs_one_place_for_the_question(template: str) -> None:
    with pytest.raises(SettingError, match="question"):
        words(template)


def test_an_example_begins_with_the_ids_of_its_prompt() -> None:
    for renderer in (words(), Renderer(byte_tokenizer(), R1_ZERO_TEMPLATE)):
        prompt = renderer.prompt(QUESTION)
        example = renderer.example(QUESTION, COMPLETION)
        assert example.ids[: len(prompt)] == prompt
        assert example.loss_mask == (0,) * len(prompt) + (1,) * (len(example.ids) - len(prompt))
        learned = [i for i, m in zip(example.ids, example.loss_mask, strict=True) if m]
        assert renderer.tokenizer.decode(learned) == COMPLETION
        assert example.ids[-1] == renderer.tokenizer.eos_id


def test_different_questions_give_different_prompts() -> None:
    renderer = words()
    assert renderer.prompt("compute 2 + 3") != renderer.prompt("compute 3 + 2")


def test_a_question_that_looks_like_the_place_is_not_replaced_again() -> None:
    assert Renderer(byte_tokenizer(), "Q {question} A").prompt_text("{question}") == "Q {question} A"


def test_a_document_is_learned_whole() -> None:
    document = words().document("1 + 1 = 2 .")
    assert document.loss_mask == (1,) * 7
    assert document.ids[-1] == words().tokenizer.eos_id


def test_a_tag_that_the_template_opens_is_not_opened_twice() -> None:
    renderer = words("User : {question} ? Assistant : <think>")
    ids = renderer.example(QUESTION, COMPLETION).ids
    assert ids.count(renderer.tokenizer.encode("<think>")[0]) == 1
    assert renderer.tokenizer.decode(ids).endswith(f"Assistant : {COMPLETION}")
    assert renderer.continuation("5") == "5"
    assert words().continuation(COMPLETION) == COMPLETION


def test_an_unknown_word_in_a_question_is_an_error() -> None:
    with pytest.raises(DataError, match="elephant"):
        words().prompt("feed the elephant")


def test_token_texts_are_what_people_read() -> None:
    renderer = words()
    assert renderer.token_texts(renderer.tokenizer.encode("2 + 3")) == ("2", "+", "3")
