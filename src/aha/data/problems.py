"""Problems to train and to test on, split by a hash of the problem's id, and problem files of your own."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from aha.errors import DataError
from aha.records import Problem
from aha.tasks import chain, countdown, general, number
from aha.tasks.checkers import checker_of
from aha.tasks.words import LANGUAGES
from aha.util.files import hash_fraction, read_jsonl, write_text_atomic

HELD_OUT = 0.1
CHAIN_SHARE = 0.7


def is_held_out(problem_id: str) -> bool:
    """One problem in ten, by a hash of its id: never in the corpus, in SFT or among RL prompts."""
    return hash_fraction(problem_id) < HELD_OUT


def toy_problem(rng: random.Random, *, held_out: bool, language: str | None = None) -> Problem:
    """A chain sum (70 %) or a countdown on the asked side of the split."""
    language = language or rng.choice(LANGUAGES)
    generate = chain.generate if rng.random() < CHAIN_SHARE else countdown.generate
    while True:
        problem = generate(rng, language=language)
        if is_held_out(problem.id) == held_out:
            return problem


def toy_general(rng: random.Random, *, held_out: bool, language: str | None = None) -> Problem:
    """A general prompt on the asked side of the split."""
    language = language or rng.choice(LANGUAGES)
    while True:
        problem = general.generate(rng, language=language)
        if is_held_out(problem.id) == held_out:
            return problem


def toy_sets(
    rng: random.Random, *, train: int, test: int, general_train: int, general_test: int
) -> dict[str, list[Problem]]:
    """The four sets of the toy recipe: different problems, half in each language, test problems all held out."""
    return {
        "train": _distinct(train, lambda i: toy_problem(rng, held_out=False, language=LANGUAGES[i % 2])),
        "test": _distinct(test, lambda i: toy_problem(rng, held_out=True, language=LANGUAGES[i % 2])),
        "general_train": _distinct(general_train, lambda i: toy_general(rng, held_out=False, language=LANGUAGES[i % 2])),
        "general_test": _distinct(general_test, lambda i: toy_general(rng, held_out=True, language=LANGUAGES[i % 2])),
    }


def arithmetic_problems() -> list[Problem]:
    """Every one-digit product and every sum of two numbers of one or two digits, by growing ``level``: products 1, sums of one
    digit 1, of mixed digits 2, of two digits 3."""
    problems = [number.product(a, b) for a in range(2, 10) for b in range(2, 10)]
    return problems + [number.addition(a, b) for a in range(1, 100) for b in range(1, 100)]


def split_by_hash(problems: Sequence[Problem]) -> tuple[list[Problem], list[Problem]]:
    """Training and held-out problems, by a hash of the id alone."""
    sides: tuple[list[Problem], list[Problem]] = ([], [])
    for problem in problems:
        sides[is_held_out(problem.id)].append(problem)
    return sides


def _distinct(count: int, draw: Callable[[int], Problem]) -> list[Problem]:
    found: dict[tuple[str, str], Problem] = {}
    for _ in range(200 * count):
        if len(found) == count:
            return list(found.values())
        problem = draw(len(found))
        found.setdefault((problem.id, problem.language), problem)
    raise DataError(f"only {len(found)} different problems could be drawn, {count} were asked for: ask for fewer")


def save_problems(path: Path, problems: Sequence[Problem]) -> None:
    """One JSON object a line, as ``load_problems`` reads it."""
    rows = (
        {"id": p.id, "problem": p.prompt, "answer": p.answer, "task": p.task, "language": p.language, **p.meta} for p in problems
    )
    write_text_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def load_problems(path: Path) -> list[Problem]:
    """Problems of a JSON-lines file (``.jsonl`` or ``.jsonl.gz``).

    A row needs ``problem`` (or ``question``) and ``answer``; ``id``, ``task`` (default ``number``) and ``language`` are
    optional and every other field goes to ``meta``. ``DataError`` names file and row of what cannot be used, and of a gold
    answer that its own checker does not accept: it would be scored wrong for ever.
    """
    rows = read_jsonl(path)
    if not rows:
        raise DataError(f"{path} has no rows: one JSON object a line with 'problem' and 'answer' is needed")
    return [_problem(row, path, number) for number, row in enumerate(rows, 1)]


def _problem(row: Mapping[str, object], path: Path, number: int) -> Problem:
    question, answer = row.get("problem", row.get("question")), row.get("answer")
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{path}, row {number}: no 'problem' text (fields: {', '.join(row)})")
    if row.get("task") != "general" and (answer is None or not str(answer).strip()):
        raise DataError(f"{path}, row {number}: no 'answer' to check against (fields: {', '.join(row)})")
    known = {"problem", "question", "answer", "id", "task", "language"}  # the rest is meta
    problem = Problem(
        id=str(row.get("id", f"{path.name}/{number}")),
        prompt=question.strip(),
        answer=str(answer or "").strip() if not isinstance(answer, int | float) else str(answer),
        task=str(row.get("task", "number")),
        language=str(row.get("language", "en")),
        meta={key: value for key, value in row.items() if key not in known},
    )
    if problem.task != "general" and not checker_of(problem).is_correct(problem, problem.answer):
        raise DataError(
            f"{path}, row {number}: the checker of task {problem.task!r} does not accept the row's own answer "
            f"{problem.answer!r}; correct the answer or name another task"
        )
    return problem
