"""Worked examples to learn from: written clean by rule, or kept from a model's own samples and made readable.

DeepSeek-R1's cold start takes R1-Zero's samples, keeps those that are correct and readable, and rewrites them (R1v2
B.3.2); its third stage keeps correct samples without mixed languages (R1v1 2.3.3). Here the rewriting is a rule: words
of the other language are translated, fillers dropped, the tags kept.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from aha.errors import DataError
from aha.records import Problem
from aha.tasks import chain, countdown, general
from aha.tasks.words import say, translate
from aha.util.files import read_jsonl, write_text_atomic


@dataclass(frozen=True, slots=True)
class WorkedExample:
    """``WorkedExample("compute 2 + 3", "<think> first 2 + 3 = 5 . </think> <answer> 5 </answer>", "clean")``;
    ``origin`` says who wrote it."""

    question: str
    completion: str
    origin: str


def tagged(thought: str, answer: str) -> str:
    """``<think> thought </think> <answer> answer </answer>``, the format the rewards ask for."""
    return f"<think> {thought} </think> <answer> {answer} </answer>"


def clean_example(problem: Problem, rng: random.Random) -> WorkedExample:
    """The problem solved by rule in the readable style. ``DataError`` for a task that no rule here can solve."""
    if problem.task == "chain":
        text = tagged(chain.clean_thought(problem.meta["expression"], problem.language), problem.answer)
    elif problem.task == "countdown":
        numbers, target = problem.meta["numbers"], problem.meta["target"]
        text = tagged(countdown.clean_thought(numbers, target, problem.language), problem.answer)
    elif problem.task == "general":
        text = tagged(general.thought(problem), rng.choice(general.answers(problem, rng)))
    elif problem.meta.get("family") in ("sum", "product"):
        text = tagged(_arithmetic_thought(problem), problem.answer)
    elif isinstance(problem.meta.get("solution"), str):
        text = tagged(problem.meta["solution"].strip(), problem.answer)
    else:
        raise DataError(
            f"problem {problem.id!r} has no 'solution', and no rule writes a worked example for task {problem.task!r}: "
            "add solutions, or train without worked examples of these problems (r1_real: --set own_examples=0)"
        )
    return WorkedExample(problem.prompt, text, "clean")


def _arithmetic_thought(problem: Problem) -> str:
    a, b = problem.meta["operands"]
    if problem.meta["family"] == "product":
        partial = ", ".join(str(b * i) for i in range(1, a + 1))
        return f"{a} times {b}: count by {b}: {partial}. So {a} * {b} = {a * b}."
    ones, tens = (a % 10, b % 10), (a // 10 * 10, b // 10 * 10)
    thought = f"Ones: {ones[0]} + {ones[1]} = {sum(ones)}."
    if sum(tens):
        thought += f" Tens: {tens[0]} + {tens[1]} = {sum(tens)}. {sum(tens)} + {sum(ones)} = {a + b}."
    return thought


_FILLERS = re.compile(rf"((?:^|\s\.)\s*)(?:(?:{say('hmm', 'en')}|{say('hmm', 'zh')})\s+\.(?:\s+|$))+")


def readable(thought: str) -> bool:
    """Full sentences, no sentence said twice in a row, something computed."""
    sentences = [sentence.strip() for sentence in thought.split(" .") if sentence.strip()]
    repeated = any(a == b for a, b in zip(sentences, sentences[1:], strict=False))
    return thought.endswith(".") and "=" in thought and not repeated


def rewrite(thought: str, language: str) -> str:
    """One language, fillers gone: ``rewrite("嗯 . first 2 + 3 = 5 .", "en") == "first 2 + 3 = 5 ."``.

    Words and sentences are those of the toy, with spaces around; all other text and white space stays as it is.
    """
    return translate(_FILLERS.sub(r"\1", thought).strip(), language)


def save_examples(path: Path, examples: list[WorkedExample]) -> None:
    """One JSON object a line."""
    write_text_atomic(path, "".join(json.dumps(asdict(e), ensure_ascii=False) + "\n" for e in examples))


def load_examples(path: Path) -> list[WorkedExample]:
    """Examples of a JSON-lines file; ``DataError`` names file and row that lacks a question or a completion."""
    examples = []
    for number, row in enumerate(read_jsonl(path), 1):
        question, completion = row.get("question", row.get("problem")), row.get("completion")
        if not isinstance(question, str) or not isinstance(completion, str) or not completion.strip():
            fields = ", ".join(row)
            raise DataError(f"{path}, row {number}: needs text fields 'question' and 'completion' (fields: {fields})")
        examples.append(WorkedExample(question, completion, str(row.get("origin", path.name))))
    if not examples:
        raise DataError(f"{path} has no rows: one JSON object a line with 'question' and 'completion' is needed")
    return examples
