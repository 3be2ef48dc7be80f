from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from aha.errors import CheckpointError
from aha.testing import byte_tokenizer
from aha.tokens.chat import chat_prompt, render_chat

TURNS = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}{% endif %}"
    "{% if m['role'] == 'assistant' %}{{ m['content'].split('</think>')[-1] }}{% endif %}"
    "{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>OPENED{% endif %}"
)


# A user's turn and what opens the answer: of DeepSeek-V3.1, of Qwen3, and of a model that always closes it.
HYBRID = "{% if not thinking is defined %}{% set thinking = false %}{% endif %}<s><|User|>{{ messages[-1]['content'] }}"
HYBRID += "<|Assistant|>{% if thinking %}<think>{% else %}</think>{% endif %}"
SWITCHED = "{% set said = messages[0]['content'].split('</think>') %}<|im_start|>{{ said[0] }}<|im_end|>\n"
SWITCHED += "{% if enable_thinking is not defined or not enable_thinking %}<think>\n\n</think>{% endif %}"
CLOSED = "{{ messages[0]['content'] }}{{ '<think>\\n\\n</think>\\n\\n' }}"
TURNS_OF_TWO = [
    {"role": "user", "content": "is 2 < 3 & \"è\"?"},
    {"role": "assistant", "content": "<b>yes</b>"},
    {"role": "user", "content": "why"},
]
AS_THEIRS = {
    "no tools": "{% if tools is not none %}tools{% endif %}{% if tools is defined %}named{% endif %}",
    "no documents": "{% if documents is not none %}documents{% endif %}",
    "an object": "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}",
    "an object, sorted": "{{ messages[0] | tojson(sort_keys=true, ensure_ascii=true, separators=(',', ':')) }}",
    "the date": "{{ strftime_now('%d %b %Y') }}",
    "what is learned": (
        "{% set x = 'a' %}{% for m in messages %}{% if m['role'] == 'assistant' %}\n  {% generation %}\n"
        "{% set x = 'b' %}{{ m['content'] }}{{ x }}\n{% endgeneration %}\n{% else %}{{ x }}{% endif %}{% endfor %}"
    ),
    "a loop that ends": "{% for m in messages %}{{ m.content }}{% if loop.index0 %}{% break %}{% endif %}{% endfor %}",
    "special tokens": "{{ bos_token }}{% if sep_token is defined %}sep{% endif %}{{ unk_token }}{{ eos_token }}",
    "thinking, a switch": HYBRID,
    "thinking, another switch": "{% if enable_thinking %}thinks{% endif %}",
}


def folder(path: Path, template: object) -> Path:
    config = {"bos_token": {"content": "<s>"}, "chat_template": template}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def test_a_turn_without_system_prompt_and_with_the_thinking_opened(tmp_path: Path) -> None:
    wanted = "<s><|user|>{question}<|assistant|><think>\n"
    assert chat_prompt(folder(tmp_path, TURNS.replace("OPENED", ""))) == wanted
    assert chat_prompt(folder(tmp_path, TURNS.replace("OPENED", "<think>\n"))) == wanted  # not opened twice
    listed = [{"name": "tool_use", "template": ""}, {"name": "default", "template": TURNS.replace("OPENED", "")}]
    assert chat_prompt(folder(tmp_path, listed)) == wanted


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        (HYBRID, "<s><|User|>{question}<|Assistant|><think>"),
        (SWITCHED, "<|im_start|>{question}<|im_end|>\n<think>\n"),
        (CLOSED, "{question}<think>\n\n</think>\n\n"),
        ("{{ messages[0]['content'] }}</think>", "{question}</think>"),
    ],
)
def test_a_model_that_may_think_is_asked_to_and_closed_thinking_stays_closed(
    tmp_path: Path, template: str, prompt: str
) -> None:
    assert chat_prompt(folder(tmp_path, template)) == prompt


def test_a_prompt_is_the_same_on_every_day(tmp_path: Path) -> None:
    dated = folder(tmp_path, "{{ strftime_now('%d %b %Y') }} {{ messages[0]['content'] }}")
    assert chat_prompt(dated) == "26 Jul 2024 {question}"
    assert render_chat(dated, TURNS_OF_TWO).startswith(f"{datetime.now():%d %b %Y} ")


@pytest.mark.parametrize("name", AS_THEIRS)
def test_a_template_is_shown_what_transformers_shows_it(tmp_path: Path, name: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.backend.add_special_tokens(["<s>"])
    tokenizer.save(tmp_path)
    saved = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**saved, "bos_token": "<s>"}))
    (tmp_path / "chat_template.jinja").write_text(AS_THEIRS[name])
    theirs = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
        TURNS_OF_TWO, tokenize=False, add_generation_prompt=True, thinking=True, enable_thinking=True
    )
    assert render_chat(tmp_path, TURNS_OF_TWO) == theirs


def test_a_model_that_does_not_think_is_left_alone_and_the_file_comes_first(tmp_path: Path) -> None:
    assert chat_prompt(tmp_path) is None
    folder(tmp_path, TURNS)
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    assert chat_prompt(tmp_path) == "[{question}]"


@pytest.mark.parametrize("template", ["{{ raise_exception('no') }}", "no place", "{% for %}", "{{ tools | length }}"])
def test_what_cannot_be_rendered_is_named(tmp_path: Path, template: str) -> None:
    with pytest.raises(CheckpointError, match="chat template"):
        chat_prompt(folder(tmp_path, template))
