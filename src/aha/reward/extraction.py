"""The final answer of a response: from the answer tag, from a box, or after "the answer is" (R1v2 B.3.1: "in a box").

Of a word problem also from a last line ``#### 18``, as GSM8K's own solutions end (Cobbe et al. 2021).

Tasks whose checker says so look outside the tag as well; a later rule is asked only where an earlier one finds nothing.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

from aha.records import Problem
from aha.reward.response import Response
from aha.tasks import choice
from aha.tasks.checkers import checker_of

_BRACES = re.compile(
    r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\(?:boxed|fbox)\s+(?P<bare>[-+]?\.?[0-9][-0-9.,/]*|[A-Za-z](?![A-Za-z]))"
    r"|\\.|[{}]",
    re.DOTALL,
)
_PHRASE = re.compile(r"\banswer\s*(?:is\b\s*:?|:)[*\s]*", re.IGNORECASE)
_LEAD = re.compile(r"(?:(?:so|hence|therefore),?\s+)?(?:(?:the|my|our)\s+)?(?:(?:final|correct)\s+)?", re.IGNORECASE)
_HASHES = re.compile(r"^####[ \t]*(\S*[0-9]\S*)[ \t]*$", re.MULTILINE)
LAST_PHRASES = 4  # a model can say a megabyte of answers: which of the last is meant
_SENTENCE_END = re.compile(r"\.(?:\s|$)")


@dataclass(frozen=True, slots=True)
class Found:
    """``Found("7", "box")``: the text and the rule that found it."""

    text: str
    rule: str


def find_answer(problem: Problem, response: Response) -> Found | None:
    """The answer to judge; ``None`` where there is none, or several answer tags."""
    tagged = response.answer
    if not checker_of(problem).boxed:
        return None if tagged is None else Found(tagged, "answer tag")
    if tagged is not None:
        box = last_box(tagged)
        if box is not None:
            return Found(box, "box in the answer tag")
        lead = _LEAD.match(tagged)
        phrase = _PHRASE.match(tagged, lead.end() if lead else 0)
        said = _sentence(tagged[phrase.end() :]) if phrase else ""
        return Found(said, "phrase in the answer tag") if said else Found(tagged, "answer tag")
    box = last_box(response.untagged)
    if box is not None and (problem.task != "choice" or choice.read_letter(box) is not None):
        return Found(box, "box")
    if problem.task == "word_problem" and (lines := _HASHES.findall(response.untagged)):
        return Found(lines[-1], "line of ####")
    ends = deque((phrase.end() for phrase in _PHRASE.finditer(response.untagged)), LAST_PHRASES)
    phrases = [_sentence(response.untagged[end:]) for end in ends]
    said = next((text for text in reversed(phrases) if _may_be_meant(problem, text)), phrases[-1] if phrases else "")
    return Found(said, "phrase") if said else None


def _may_be_meant(problem: Problem, said: str) -> bool:
    """Not the "unclear" of "let me know if the answer is unclear": what no answer can be read from, or of a formula
    words alone."""
    words = problem.task == "math" and not re.search(r"[0-9\\$=]|^\W*[A-Za-z]\W*$", said)
    return not words and checker_of(problem).vote_key(said) is not None


def last_box(text: str) -> str | None:
    r"""What is in the last ``\boxed{...}`` whose braces are balanced, or the number or letter of ``\boxed 5``."""
    open_braces: list[tuple[bool, int]] = []
    last: tuple[int, int] | None = None
    for token in _BRACES.finditer(text):  # one pass: a model can write a megabyte of boxes that it never closes
        if token["box"] or token[0] == "{":
            open_braces.append((bool(token["box"]), token.end()))
        elif token[0] == "}" and open_braces:
            is_box, start = open_braces.pop()
            if is_box and (last is None or start > last[0]):
                last = start, token.start()
        elif token["bare"] and (last is None or token.start() > last[0]):
            last = token.span("bare")
    return text[slice(*last)].strip() if last else None


def _sentence(text: str) -> str:
    """Up to the end of the line or of the sentence."""
    text = text.partition("\n")[0]
    end = _SENTENCE_END.search(text)
    return (text[: end.start()] if end else text).strip().strip("*").strip()
