"""What a completion says: its thinking, its answer, and whether it keeps the format of DeepSeek-R1 (R1v1 2.2.2)."""

from __future__ import annotations

from dataclasses import dataclass, field

TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@dataclass(frozen=True, slots=True)
class Response:
    """``Response(think="2 + 3 = 5 .", answer="5", well_formed=True)``.

    ``answer`` is ``None`` unless there is exactly one ``<answer>...</answer>`` without a tag inside: several answers
    are no answer, or a model could list its guesses. ``think`` is everything before the answer when the
    format is broken: what is said outside the tags is read too. ``untagged`` is what follows the thinking where there
    is no answer tag at all: some tasks look for an answer in it (``reward/extraction.py``). ``tags`` counts each of
    ``TAGS``, one that the prompt opened included; ``tokens`` is how long the completion was. Both are no part of what a
    response says, so two responses are equal without them.
    """

    think: str
    answer: str | None
    well_formed: bool
    untagged: str = ""
    tags: tuple[int, ...] = field(default=(0, 0, 0, 0), compare=False)
    tokens: int = field(default=0, compare=False)


def read_response(completion: str, *, prompt_tail: str = "", tokens: int = 0) -> Response:
    """Split a completion of so many ``tokens``. ``prompt_tail`` is the end of the prompt: a tag that it ends with
    belongs to the response. Many published chat templates open ``<think>`` themselves, and the completion need not open
    it again."""
    text = completion.strip()
    for tag in TAGS:
        if prompt_tail.rstrip().endswith(tag):
            text = f"{tag} {text}"
    places = [text.find(tag) for tag in TAGS]
    tags = tuple(text.count(tag) for tag in TAGS)
    answer = None
    if tags[2:] == (1, 1) and places[2] < places[3]:
        answer = text[places[2] + len(TAGS[2]) : places[3]].strip() or None
        if answer is not None and any(tag in answer for tag in TAGS):
            answer = None
    if tags == (1, 1, 1, 1) and places == sorted(places):
        think = text[places[0] + len(TAGS[0]) : places[1]].strip()
        between = text[places[1] + len(TAGS[1]) : places[2]].strip()
        if places[0] == 0 and think and answer is not None and not between and text.endswith(TAGS[3]):
            return Response(think, answer, True, "", tags, tokens)
    think = text[: places[2]] if places[2] >= 0 else text
    for tag in TAGS[:2]:
        think = think.replace(tag, " ")
    return Response(think.strip(), answer, False, _untagged(text), tags, tokens)


def _untagged(text: str) -> str:
    """What follows ``</think>``, or the whole of a text without tags; nothing where the thinking was cut."""
    if TAGS[2] in text or TAGS[3] in text or text.count(TAGS[1]) > 1:
        return ""
    thought, closed, rest = text.partition(TAGS[1])
    return rest.strip() if closed else "" if TAGS[0] in thought else text
