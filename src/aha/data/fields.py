"""One set of field names for rows of any origin: ``problem``, ``answer``, ``completion``, ``id``.

Data sets name the same things differently, and chats hold them as turns. Every step after reading looks at these names
alone, which are also those that stages read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aha.data.files import Rejected, Row, read_rows
from aha.errors import DataError

PROBLEM = ("problem", "question", "Problem", "Question", "prompt", "instruction", "query", "quiz", "input")
"""Every name of the question, of ours, of training sets and of published benchmarks; the first that is there counts."""
_BEFORE = (("Body", " "), ("context", "\n\n"))  # SVAMP's story, OlympiadBench's
_BEHIND = (("input", "\n\n"), ("context", "\n\n"))  # what an instruction of Alpaca or Dolly is about
COMPLETION = ("completion", "response", "generation", "output")
CHATS = ("messages", "conversations", "conversation", "prompt")
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant"}


def named(row: Row) -> Row | Rejected:
    """``row`` with its question as ``problem``, what a model said as ``completion``, its answer as text, and an
    ``id``.

    A chat of one question and one reply becomes these two (and ``system``); of a longer one ``messages`` stays, and
    ``problem`` is what the user said first. What a question is asked about (``question_of``) belongs to it. Rejected
    where there is no question. All other fields stay.
    """
    fields = dict(row.fields)
    chat_name = next((name for name in CHATS if isinstance(fields.get(name), list)), None)
    if chat_name is not None:
        turns = _turns(fields[chat_name])
        if isinstance(turns, str):
            return Rejected(row.file, row.line, f"{chat_name}: {turns}", str(fields[chat_name])[:200])
        fields = _of_chat(fields, chat_name, turns)
    else:
        whole = question_of(fields)
        _rename(fields, PROBLEM)
        if whole is not None:
            fields["problem"] = whole
    _rename(fields, COMPLETION)
    problem = fields.get("problem")
    if not isinstance(problem, str) or not problem.strip():
        found = ", ".join(row.fields) or "none"
        why = f"no question: a text field {', '.join(PROBLEM)}, or a chat as messages (fields: {found})"
        return Rejected(row.file, row.line, why, str(row.fields)[:200])
    if not isinstance(fields.get("completion", ""), str):
        return Rejected(row.file, row.line, "the completion is no text", str(fields["completion"])[:200])
    if isinstance(fields.get("answer"), int | float) and not isinstance(fields["answer"], bool):
        fields["answer"] = str(fields["answer"])  # numbers here and text there would fit no column of Parquet
    name = fields.pop("id", None)
    if name is None or name == "":
        name = f"{row.file.rpartition('/')[2]}:{row.line}"
    return Row(row.file, row.line, {"id": str(name), "problem": fields.pop("problem"), **fields})


def question_of(fields: Mapping[str, Any]) -> str | None:
    """The first text under ``PROBLEM``, with what it is asked about: SVAMP has its story as ``Body``, OlympiadBench and
    reading tests have a ``context``, an instruction has an ``input`` or a ``context``."""
    name = next((name for name in PROBLEM if _has_text(fields, name)), None)
    if name is None:
        return None
    text = str(fields[name])
    if name == "instruction":
        return text + next((gap + fields[more].strip() for more, gap in _BEHIND if _has_text(fields, more)), "")
    if name in ("question", "Question"):
        return next((fields[more].strip() + gap for more, gap in _BEFORE if _has_text(fields, more)), "") + text
    return text


def _has_text(fields: Mapping[str, Any], name: str) -> bool:
    return isinstance(fields.get(name), str) and bool(fields[name].strip())


def read_named(files: Sequence[Path]) -> Iterator[Row | Rejected]:
    """Every row of ``files`` under these names. ``DataError`` at their end where none could be used, with what is wrong
    with the first: nothing comes of such files, and that must not look like a result."""
    first: Rejected | None = None
    used = False
    for file in files:
        for item in read_rows(file):
            row = named(item) if isinstance(item, Row) else item
            if isinstance(row, Rejected):
                first = first or row
            else:
                used = True
            yield row
    if not used:
        if first is not None:
            raise DataError(f"no row can be used; the first is {first.file}:{first.line}: {first.why}")
        raise DataError(f"{', '.join(map(str, files))}: no rows")


def _rename(fields: dict[str, Any], names: Sequence[str]) -> None:
    """The first of ``names`` that holds something becomes the first name."""
    found = next((name for name in names if fields.get(name) is not None), names[0])
    if found != names[0]:
        fields[names[0]] = fields.pop(found)


def _turns(chat: Sequence[Any]) -> list[tuple[str, str]] | str:
    """(role, text) of each turn, or what is wrong with it; ``{"from": "human", "value": ...}`` is read too."""
    turns = []
    for turn in chat:
        if not isinstance(turn, Mapping):
            return f"a turn is no object but {type(turn).__name__}"
        role, text = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if not isinstance(role, str) or not isinstance(text, str):
            return "a turn needs a role and a text as content"
        turns.append((_ROLES.get(role, role), text))
    if not any(role == "user" for role, _ in turns):
        return "no turn of the user"
    return turns


def _of_chat(fields: dict[str, Any], name: str, turns: list[tuple[str, str]]) -> dict[str, Any]:
    rest = {key: value for key, value in fields.items() if key != name}
    spoken = [(role, text) for role, text in turns if role != "system"]
    systems = [text for role, text in turns if role == "system"]
    rest["problem"] = next(text for role, text in spoken if role == "user")
    if [role for role, _ in spoken] == ["user", "assistant"]:
        rest["completion"] = spoken[1][1]
    elif len(spoken) > 1:
        rest["messages"] = [{"role": role, "content": text} for role, text in turns]
        return rest
    if systems:
        rest["system"] = "\n".join(systems)
    return rest
