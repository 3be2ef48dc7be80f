"""A published model's chat template as a prompt with one ``{question}``: a user's turn, no system prompt, and the
thinking opened, as DeepSeek-R1 is to be asked (R1-README: "initiate its response with <think>"). A template sees what
transformers' ``apply_chat_template`` shows it, and a model that may or may not think is asked to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from aha.errors import CheckpointError
from aha.tokens.render import END_THINK, THINK
from aha.util.files import read_json

_PLACE = "QUESTION-OF-THE-USER"
_FILE, _CONFIG = "chat_template.jinja", "tokenizer_config.json"
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_A_DAY = datetime(2024, 7, 26)
_THINKS = ("thinking", "enable_thinking")  # DeepSeek-V3.1's switch, and Qwen3's


def chat_prompt(folder: Path) -> str | None:
    """The template of a model folder, ``None`` where it has no chat template.

    A template that says the date is told one day for ever, that of Llama 3.2's own fallback: what is asked must not
    depend on when. ``<think>`` and a line break are added where the chat template knows the tag and has neither opened
    nor closed it.
    ``CheckpointError`` for a template that cannot be rendered with one user's turn.
    """
    source = _source(folder)
    if source is None:
        return None
    prompt = render_chat(folder, [{"role": "user", "content": _PLACE}], today=_A_DAY)
    if prompt.count(_PLACE) != 1:
        raise CheckpointError(f"{folder}: its chat template says the user's turn {prompt.count(_PLACE)} times")
    return prompt.replace(_PLACE, "{question}")


def render_chat(folder: Path, messages: Sequence[Mapping[str, str]], *, today: datetime | None = None) -> str:
    """The prompt for a conversation, with the thinking opened as above; ``today`` is what a template that dates it is
    told. ``CheckpointError`` where the folder has no chat template, or it cannot take these turns."""
    source = _source(folder)
    if source is None:
        raise CheckpointError(f"{folder} has no chat template: it takes one question, not {len(messages)} turns")
    config = _config(folder)
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": (today or datetime.now()).strftime}
    given = {
        "messages": messages,
        "tools": None,
        "documents": None,
        "add_generation_prompt": True,
        **{switch: True for switch in _THINKS},
        **{name: token for name in _SPECIAL if (token := _text(config.get(name)))},
    }
    try:
        prompt = environment.from_string(source).render(given)
    except (TemplateError, TypeError) as error:
        raise CheckpointError(f"{folder}: its chat template cannot be rendered ({error}); give --template") from None
    # Some templates name </think> alone, to drop the thinking of earlier turns.
    knows = THINK.removeprefix("<") in source
    return f"{prompt}{THINK}\n" if knows and not prompt.rstrip().endswith((THINK, END_THINK)) else prompt


class _Generation(Extension):
    """``{% generation %}`` around what a model is to say: transformers finds it for a loss mask, the text is as it
    is."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Jinja's own sorts keys and escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _config(folder: Path) -> dict[str, Any]:
    return dict(read_json(folder / _CONFIG)) if (folder / _CONFIG).is_file() else {}


def _source(folder: Path) -> str | None:
    source = (
        (folder / _FILE).read_text(encoding="utf-8")
        if (folder / _FILE).is_file()
        else _config(folder).get("chat_template")
    )
    if isinstance(source, list):  # several, by name
        source = {row["name"]: row["template"] for row in source}.get("default")
    return source if isinstance(source, str) else None


def _text(token: Any) -> str:
    return str(token["content"]) if isinstance(token, dict) else str(token or "")


def _refuse(message: str) -> None:
    raise TemplateError(message)
