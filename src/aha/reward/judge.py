"""A model as judge of answers that no rule can judge: question, reference and answer in, a JSON verdict out.

DeepSeek-R1's third stage asks DeepSeek-V3 so for part of its prompts (R1v2 2.3.3 and listing 4). The words of the
prompt are ours; what goes in and what comes out are the listing's.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from aha.records import Problem, Status, Verdict
from aha.reward.response import Response

PROMPT = """You judge whether an answer to a question is correct. A reference answer is given; it is right.

[Question]
{question}

[Reference answer]
{reference}

[Answer to judge]
{answer}

The answer is correct if it says the same as the reference answer, in whatever form. How it was reached does not count.
Reply with one JSON object and nothing after it: {{"analysis": "one sentence", "verdict": "correct"}} or \
{{"analysis": "one sentence", "verdict": "incorrect"}}."""

_READER = json.JSONDecoder(strict=False)  # a line break in a string is none of JSON's, and models write it
_STATUS = {"correct": Status.RIGHT, "incorrect": Status.WRONG}


def judge_prompt(problem: Problem, response: Response) -> str:
    """What the judge is asked. It sees the answer alone, not the thinking, which could talk it into a verdict."""
    said = response.answer if response.answer is not None else response.untagged
    return PROMPT.format(question=problem.prompt, reference=problem.answer, answer=said or "(none)")


def read_verdict(reply: str) -> Verdict:
    """The verdict of the last JSON object that has one. A reply without is an ERROR: the judge failed, not the answer.

    ``read_verdict('{"analysis": "same value", "verdict": "correct"}').status is Status.RIGHT``.
    """
    for found in reversed(_objects(reply.rpartition("</think>")[2])):
        verdict = found.get("verdict")
        if isinstance(verdict, str) and verdict.strip().lower() in _STATUS:
            status = _STATUS[verdict.strip().lower()]
            return Verdict("judge", status, float(status is Status.RIGHT), str(found.get("analysis", ""))[:200])
    return Verdict("judge", Status.ERROR, 0.0, f"no verdict in {reply[-120:]!r}")


def _objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects in a text, those inside of others too."""
    found: list[dict[str, Any]] = []
    place = -1
    while (place := text.find("{", place + 1)) >= 0:
        with suppress(ValueError, RecursionError):
            found.append(_READER.raw_decode(text, place)[0])
    return found
