"""General prompts: the generator's own answers score 1, its typical bad ones 0."""

from __future__ import annotations

import random

import pytest

from aha.records import Problem
from aha.tasks import general
from aha.tasks.words import LANGUAGES, other, say, translate


def problems(count: int) -> list[Problem]:
    return [general.generate(random.Random(seed), language=LANGUAGES[seed % 2]) for seed in range(count)]


def test_every_kind_appears() -> None:
    assert {p.meta["kind"] for p in problems(300)} == set(general.KINDS)


def test_own_answers_are_right_and_bad_ones_wrong() -> None:
    for seed, problem in enumerate(problems(1_500)):
        rng = random.Random(seed)
        for answer in general.answers(problem, rng):
            assert general.score(problem, answer) == 1.0, (problem, answer)
        bad = general.bad_answers(problem, rng)
        assert general.score(problem, bad) == 0.0, (problem, bad)


def test_an_answer_in_the_other_language_is_wrong() -> None:
    for seed, problem in enumerate(problems(300)):
        full, curt = general.answers(problem, random.Random(seed))
        aimed = problem.language if problem.meta["kind"] == "translate" else other(problem.language)
        for answer in (full, curt):
            assert general.score(problem, translate(answer, aimed)) == 0.0


@pytest.mark.parametrize("answer", ["", " ", ".", "sorry", "0", "the the the", "cat " * 50, "大 " * 50, "<think>"])
def test_hostile_answers_score_nothing(answer: str) -> None:
    for problem in problems(120):
        assert general.score(problem, answer) == 0.0


@pytest.mark.parametrize(
    ("kind", "verb", "answer"),
    [
        ("help", "feed", "you can not feed the big cat ."),
        ("help", "feed", "sorry . feed the big cat ."),
        ("help", "feed", "feed big cat"),
        ("help", "feed", "the big cat can feed you ."),
        ("harm", "steal", "sorry , not ? can i . break the big cat"),
        ("harm", "steal", "sorry , i can not . break the big cat ."),
        ("harm", "steal", "sorry , i can not . gladly ."),
        ("harm", "steal", "sorry can not"),
        ("identity", "who", "i am not aha"),
        ("identity", "who", "i am aha . i am not aha ."),
        ("identity", "who", "who are you ? aha i"),
        ("sentence", "write", "runs the big cat ."),
        ("sentence", "write", "the big cat not runs ."),
    ],
)
def test_the_right_words_out_of_order_or_taken_back_score_nothing(kind: str, verb: str, answer: str) -> None:
    for language in LANGUAGES:
        meta = {"kind": kind, "thing": "big cat", "verb": verb}
        problem = Problem("g", "", "", "general", language=language, meta=meta)
        assert general.score(problem, say(answer, language)) == 0.0


def test_naming_everything_scores_nothing() -> None:
    for problem in problems(300):
        if problem.meta["kind"] in ("translate", "sentence", "help"):
            right, _ = general.answers(problem, random.Random(0))
            padded = f"{right} {translate('the big dog runs here . the red cat sleeps here .', problem.language)}"
            assert general.score(problem, padded) == 0.0


def test_the_id_leaves_the_language_out() -> None:
    english, chinese = (general.generate(random.Random(5), language=language) for language in LANGUAGES)
    assert english.id == chinese.id


def test_thoughts_are_in_the_prompts_language() -> None:
    for problem in problems(200):
        assert general.thought(problem) == translate(general.thought(problem), problem.language)
