"""Problems to train and to test on, split by a hash of what is asked, and problem files of your own."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aha.data.files import load_rows
from aha.errors import DataError, nearest
from aha.records import Problem, Status
from aha.tasks import chain, countdown, general, gym, mathematics, number, programs
from aha.tasks.checkers import checker_of
from aha.tasks.words import LANGUAGES
from aha.util.files import hash_fraction, write_text_atomic

HELD_OUT = 0.1
CHAIN_SHARE = 0.7
SLOW_TASKS = ("code", "math", "reasoning_gym")
"""Judged in other processes: their golds are looked at once, where a file comes in, and not at every stage."""
WITHOUT_GOLD = ("code", "general", "reasoning_gym")
MAX_REPEATS = 5_000  # draws in a row that were there already: no other is left


def is_held_out(key: str) -> bool:
    """One problem in ten, by a hash of its key: never in the corpus, in SFT or among RL prompts."""
    return hash_fraction(key) < HELD_OUT


def split_key(problem: Problem) -> str:
    """What decides the side of the split: the ``split_key`` of the problem's fields, which problems with one answer for
    one reason share (``5 + 7`` and ``7 + 5``), else its id."""
    return str(problem.meta.get("split_key", problem.id))


def toy_problem(rng: random.Random, *, held_out: bool, language: str | None = None) -> Problem:
    """A chain sum (70 %) or a countdown on the asked side of the split."""
    language = language or rng.choice(LANGUAGES)
    generate = chain.generate if rng.random() < CHAIN_SHARE else countdown.generate
    while True:
        problem = generate(rng, language=language)
        if is_held_out(split_key(problem)) == held_out:
            return problem


def toy_general(rng: random.Random, *, held_out: bool, language: str | None = None) -> Problem:
    """A general prompt on the asked side of the split."""
    language = language or rng.choice(LANGUAGES)
    while True:
        problem = general.generate(rng, language=language)
        if is_held_out(split_key(problem)) == held_out:
            return problem


def toy_sets(
    rng: random.Random, *, train: int, test: int, general_train: int, general_test: int
) -> dict[str, list[Problem]]:
    """The four sets of the toy recipe: different problems, half in each language, test problems all held out."""

    def draw(count: int, family: Callable[..., Problem], held_out: bool) -> list[Problem]:
        return _distinct(count, lambda i: family(rng, held_out=held_out, language=LANGUAGES[i % 2]))

    return {
        "train": draw(train, toy_problem, False),
        "test": draw(test, toy_problem, True),
        "general_train": draw(general_train, toy_general, False),
        "general_test": draw(general_test, toy_general, True),
    }


def arithmetic_problems() -> list[Problem]:
    """Every one-digit product and every sum of two numbers of one or two digits, by growing ``level``: products 1, sums
    of one digit 1, of mixed digits 2, of two digits 3."""
    problems = [number.product(a, b) for a in range(2, 10) for b in range(2, 10)]
    return problems + [number.addition(a, b) for a in range(1, 100) for b in range(1, 100)]


def split_by_hash(problems: Sequence[Problem]) -> tuple[list[Problem], list[Problem]]:
    """Training and held-out problems, by a hash of ``split_key``; a question that is on both sides is held out."""
    test = [problem for problem in problems if is_held_out(split_key(problem))]
    asked = {problem.prompt for problem in test}
    return [p for p in problems if not is_held_out(split_key(p)) and p.prompt not in asked], test


def spread(problems: Sequence[Problem], rng: random.Random) -> list[Problem]:
    """All problems in random order, families and levels in turn, so that the first of them are not all of the largest
    kind: there are 64 one-digit products and 8,100 sums of two-digit numbers."""
    kinds: dict[tuple[str, str], list[Problem]] = {}
    for problem in rng.sample(problems, len(problems)):
        kind = str(problem.meta.get("family", "")), str(problem.meta.get("level", ""))
        kinds.setdefault(kind, []).append(problem)
    turns = itertools.zip_longest(*(kinds[kind] for kind in sorted(kinds)))
    return [problem for turn in turns for problem in turn if problem is not None]


def _distinct(count: int, draw: Callable[[int], Problem]) -> list[Problem]:
    found: dict[tuple[str, str], Problem] = {}
    repeats = 0
    while len(found) < count:
        problem = draw(len(found))
        repeats = repeats + 1 if (problem.id, problem.language) in found else 0
        if repeats == MAX_REPEATS:
            raise DataError(f"only {len(found)} different problems could be drawn of {count} asked for: ask for fewer")
        found.setdefault((problem.id, problem.language), problem)
    return list(found.values())


def save_problems(path: Path, problems: Sequence[Problem]) -> None:
    """One JSON object a line, as ``load_problems`` reads it."""
    rows = []
    for p in problems:
        own = {"id": p.id, "problem": p.prompt, "answer": p.answer, "task": p.task, "language": p.language}
        rows.append(json.dumps({**own, **p.meta}, ensure_ascii=False) + "\n")
    write_text_atomic(path, "".join(rows))


@dataclass(frozen=True)
class BadGold:
    """A row whose gold no answer can equal: ``BadGold("mine.jsonl", 7, "x +", "cannot be read as a formula")``."""

    file: str
    row: int
    gold: str
    why: str


def load_checked(path: Path) -> tuple[list[Problem], list[BadGold]]:
    """The problems of a file, and the rows left out because their gold is not right by its own verifier.

    In a set of formulas by other hands some golds cannot be read; one such problem would poison its groups, and does
    not make the file unusable. The golds of all other tasks are held to be right, as ``load_problems`` says.
    ``DataError`` when no problem is left.
    """
    return drop_bad_golds(load_problems(path), path)


def drop_bad_golds(problems: Sequence[Problem], source: str | Path) -> tuple[list[Problem], list[BadGold]]:
    """``load_checked`` of problems that were read from ``source`` already."""
    kept, dropped = [], []
    for row, (problem, why) in enumerate(zip(problems, _gold_faults(problems), strict=True), 1):
        if why:
            dropped.append(BadGold(str(source), row, problem.answer, why))
        else:
            kept.append(problem)
    if not kept:
        first = dropped[0]
        raise DataError(
            f"{source}: none of the {len(dropped)} golds is right by its own verifier; the first, row {first.row}: "
            f"{first.gold!r}: {first.why}"
        )
    return kept, dropped


def _gold_faults(problems: Sequence[Problem]) -> list[str]:
    """For each problem why its gold is not accepted; empty where it is, or where it was looked at already.
    ``VerifierError`` where no process could judge: that is no fault of the golds."""
    mathematical = [row for row, problem in enumerate(problems) if problem.task == "math"]
    gymnastic = [row for row, problem in enumerate(problems) if problem.task == "reasoning_gym" and problem.answer]
    verdicts = mathematics.verify_many([(problems[row].answer,) * 2 for row in mathematical])
    verdicts += gym.verify_many([problems[row] for row in gymnastic], [problems[row].answer for row in gymnastic])
    faults = [""] * len(problems)
    for row, verdict in zip(mathematical + gymnastic, verdicts, strict=True):
        if verdict.status is not Status.RIGHT:
            faults[row] = verdict.note
    return faults


def load_problems(path: Path) -> list[Problem]:
    """Problems of a file of the formats of data/files.py, or of a folder of them, such as 'aha data' writes.

    A row needs ``problem`` (or ``question``) and ``answer``; ``id``, ``task`` (default ``number``) and ``language`` are
    optional and every other field goes to ``meta``, where a ``split_key`` keeps rows on one side of the split.
    ``DataError`` names file and row of what cannot be used, and of a gold answer that its own checker does not accept:
    it would be scored wrong for ever; and an id that two different problems have. The golds of ``SLOW_TASKS`` are not
    looked at: ``load_checked`` does, once.
    """
    rows = load_rows(path)
    if not rows:
        raise DataError(f"{path} has no rows: one object a row with 'problem' and 'answer' is needed")
    problems = [_problem(row, path, number) for number, row in enumerate(rows, 1)]
    check_keys({f"{path}, row {number}": [problem] for number, problem in enumerate(problems, 1)})
    return problems


def check_keys(sets: Mapping[str, Sequence[Problem]]) -> None:
    """``DataError`` where two different problems have one key, by which verdicts and pass rates are kept; names the
    ``sets`` that they are in."""
    found: dict[str, tuple[str, Problem]] = {}
    for name, problems in sets.items():
        for problem in problems:
            before, first = found.setdefault(problem.key, (name, problem))
            if problem != first:
                raise DataError(
                    f"{name}: the id {problem.id!r} has {_start(problem)} here and {_start(first)} in {before}; "
                    "verdicts and pass rates are kept by id, so give one of them another id"
                )


def _start(problem: Problem) -> str:
    return repr(problem.prompt if len(problem.prompt) <= 60 else f"{problem.prompt[:60]} ..")


def _problem(row: Mapping[str, object], path: Path, number: int) -> Problem:
    where, row = f"{path}, row {number}", {name: value for name, value in row.items() if value is not None}
    question, answer, fields = row.get("problem", row.get("question")), row.get("answer"), ", ".join(row)
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{where}: no 'problem' text (fields: {fields})")
    if row.get("task") not in WITHOUT_GOLD and (answer is None or not str(answer).strip()):
        raise DataError(f"{where}: no 'answer' to check against (fields: {fields})")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float | None):
        raise DataError(f"{where}: the 'answer' {answer!r} is neither text nor a number")
    known = {"problem", "question", "answer", "id", "task", "language"}  # the rest is meta
    problem = Problem(
        id=str(row.get("id", f"{path.name}/{number}")),
        prompt=question.strip(),
        answer="" if answer is None else str(answer).strip(),
        task=str(row.get("task", "number")),
        language=str(row.get("language", "en")),
        meta={key: value for key, value in row.items() if key not in known},
    )
    if problem.language not in LANGUAGES:
        raise DataError(f"{where}: no rule tells language {problem.language!r}; {nearest(problem.language, LANGUAGES)}")
    try:
        accepted = _is_judgeable(problem)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    except (KeyError, TypeError) as error:
        raise DataError(f"{where}: task {problem.task!r} lacks a field or cannot use it: {error!r}") from None
    if not accepted:
        raise DataError(
            f"{where}: the checker of task {problem.task!r} does not accept the row's own answer "
            f"{problem.answer!r}; correct the answer or name another task"
        )
    return problem


def _is_judgeable(problem: Problem) -> bool:
    """Whether the gold passes its own checker; for a general prompt, whether its rule score has what it reads, or its
    ``judge`` names the preference model that it goes to."""
    if problem.task == "code":
        programs.check_tests(problem)
        return True
    if problem.task in SLOW_TASKS:
        return problem.task != "reasoning_gym" or {"family", "entry"} <= problem.meta.keys()
    if problem.task != "general":
        return checker_of(problem).is_correct(problem, problem.answer)
    meta = problem.meta
    if meta.get("judge") in ("helpful", "safe") and "kind" not in meta:
        return True  # a preference model alone judges it
    return meta["kind"] in general.KINDS and all(isinstance(meta[key], str) for key in ("thing", "verb"))
