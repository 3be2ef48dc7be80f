from __future__ import annotations

import json
from pathlib import Path

import pytest

from aha.errors import CheckpointError
from aha.tokens.chat import chat_prompt

TURNS = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}{% endif %}"
    "{% if m['role'] == 'assistant' %}{{ m['content'].split('</think>')[-1] }}{% endif %}"
    "{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>OPENED{% endif %}"
)


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


def test_a_model_that_does_not_think_is_left_alone_and_the_file_comes_first(tmp_path: Path) -> None:
    assert chat_prompt(tmp_path) is None
    folder(tmp_path, TURNS)
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    assert chat_prompt(tmp_path) == "[{question}]"


@pytest.mark.parametrize("template", ["{{ raise_exception('no') }}", "no place", "{% for %}"])
def test_what_cannot_be_rendered_is_named(tmp_path: Path, template: str) -> None:
    with pytest.raises(CheckpointError, match="chat template"):
        chat_prompt(folder(tmp_path, template))
