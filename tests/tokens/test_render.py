"""One renderer: what the sampler is asked is what the trainer is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers.processors import ByteLevel, PostProcessor, RobertaProcessing, Sequence, TemplateProcessing
from transformers import AutoTokenizer

from aha.errors import DataError, SettingError
from aha.testing import byte_tokenizer, word_tokenizer
from aha.tokens.render import R1_ZERO_TEMPLATE, Renderer
from aha.tokens.tokenizer import Tokenizer, load_tokenizer

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


def published(folder: Path, processor: PostProcessor | None) -> Tokenizer:
    tokenizer = byte_tokenizer()
    tokenizer.backend.add_special_tokens(["<s>", "</s>"])
    if processor is not None:
        tokenizer.backend.post_processor = processor
    tokenizer.save(folder)
    return load_tokenizer(folder)


MARKS = [("<s>", 258), ("</s>", 259)]
BEGINS = TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=MARKS)
BEGINS_TWICE = TemplateProcessing(single="<s> <s> $A", pair="<s> $A $B", special_tokens=MARKS)
ENDS = TemplateProcessing(single="$A </s>", pair="$A $B </s>", special_tokens=MARKS)
BOTH = TemplateProcessing(single="<s> $A </s>", pair="<s> $A $B </s>", special_tokens=MARKS)
PROCESSORS = {
    "none": (None, []),
    "bytes": (ByteLevel(trim_offsets=False), []),
    "begins": (BEGINS, [258]),
    "bytes, begins": (Sequence([ByteLevel(trim_offsets=False), BEGINS]), [258]),
    "begins twice": (BEGINS_TWICE, [258, 258]),
    "ends": (ENDS, []),
    "both": (BOTH, [258]),
    "both, of another kind": (RobertaProcessing(("</s>", 259), ("<s>", 258)), [258]),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_text_begins_as_the_published_tokenizer_begins_it_and_ends_as_ours(name: str, tmp_path: Path) -> None:
    processor, begin = PROCESSORS[name]
    tokenizer = published(tmp_path / "theirs", processor)
    tokenizer.save(tmp_path / "again")
    renderer = Renderer(load_tokenizer(tmp_path / "again"), R1_ZERO_TEMPLATE)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "again")
    prompt = renderer.prompt(QUESTION)
    ends = name.startswith(("ends", "both"))
    assert list(prompt) == theirs(renderer.prompt_text(QUESTION))["input_ids"][: -1 if ends else None]
    assert tokenizer.begin_ids == begin == list(prompt[: len(begin)])
    body = tokenizer.encode(COMPLETION)
    assert renderer.example(QUESTION, COMPLETION).ids == (*prompt, *body, tokenizer.eos_id)
    document = renderer.document(COMPLETION)
    assert document.ids == (*begin, *body, tokenizer.eos_id) and len(document.loss_mask) == len(document.ids)


def test_a_template_that_writes_the_beginning_itself_does_not_get_it_twice(tmp_path: Path) -> None:
    tokenizer = published(tmp_path, BEGINS)
    theirs = AutoTokenizer.from_pretrained(tmp_path, bos_token="<s>")
    theirs.chat_template = "{{ bos_token }}{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    wanted = theirs.apply_chat_template([{"role": "user", "content": QUESTION}])["input_ids"]
    assert list(Renderer(tokenizer, "<s>[{question}]").prompt(QUESTION)) == wanted
    assert tokenizer.encode_from_start("") == [258]


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
