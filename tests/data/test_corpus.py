"""The corpus fits the tokenizer and the training rows, and gives no held-out problem away."""

from __future__ import annotations

import itertools
import random
import re

from aha.data.corpus import TAGS, TEMPLATE, documents, reasoning
from aha.data.problems import is_held_out, toy_problem
from aha.stages.pretrain import Settings
from aha.tasks import general
from aha.tasks.countdown import problem_id
from aha.tasks.words import say, translate
from aha.testing import word_tokenizer

MANY = list(itertools.islice(documents(random.Random(11)), 6_000))


def test_the_same_seed_gives_the_same_documents() -> None:
    again = list(itertools.islice(documents(random.Random(11)), 50))
    assert again == MANY[:50]
    assert list(itertools.islice(documents(random.Random(12)), 50)) != again


def test_every_word_is_known_and_every_document_fits_a_row() -> None:
    tokenizer, width = word_tokenizer(), Settings().row_length
    for document in MANY:
        assert len(tokenizer.encode(document)) < width


def test_every_number_is_in_the_vocabularys_range() -> None:
    numbers = {int(word) for document in MANY for word in document.split() if word.lstrip("-").isdigit()}
    assert min(numbers) == 0
    assert 60 < max(numbers) <= 99  # the tokenizer has words for 0 to 99


def prompts(document: str) -> list[str]:
    """Everything in a document that asks something, in English."""
    return re.findall(r"(?:compute|make|translate|write|how|who) [^?:]*", translate(document, "en"))


def held_out_ids() -> tuple[set[str], set[str]]:
    """Prompts of held-out and of other problems of every family, in English."""
    sides: tuple[set[str], set[str]] = (set(), set())
    rng = random.Random(3)
    for _ in range(3_000):
        held_out = rng.random() < 0.5
        sides[held_out].add(toy_problem(rng, held_out=held_out, language="en").prompt)
    for seed in range(6_000):
        problem = general.generate(random.Random(seed), language="en")
        sides[is_held_out(problem.id)].add(problem.prompt)
    return sides


def test_no_held_out_problem_is_in_the_corpus() -> None:
    train, held_out = held_out_ids()
    asked = {prompt.strip() for document in MANY for prompt in prompts(document)}
    assert asked & train  # the reading finds problems where there are some
    assert not asked & held_out
    chains = {prompt.removeprefix("compute ").strip() for prompt in asked if prompt.startswith("compute ")}
    assert len(chains) > 500
    assert not [chain for chain in chains if is_held_out(f"chain/{chain}")]
    for prompt in asked:
        words = prompt.split()
        if words[0] == "make" and "from" in words:
            assert not is_held_out(problem_id([int(word) for word in words[3:]], int(words[1])))


def test_quality_is_mixed() -> None:
    chats = [d for d in MANY if d.startswith(TEMPLATE.split("{")[0])]
    tagged = [d for d in chats if all(tag in d for tag in TAGS)]
    assert 0.1 < len(tagged) / len(chats) < 0.9
    assert any(sum(tag in d for tag in TAGS) == 3 for d in chats)


def test_reasoning_ends_in_what_it_found() -> None:
    right = 0
    for seed in range(400):
        rng = random.Random(seed)
        problem = toy_problem(rng, held_out=False, language="en")
        thought, answer = reasoning(rng, problem)
        assert thought.endswith(".")
        if problem.task == "chain":
            assert answer in translate(thought, "en").rsplit(" =", 1)[1].split()
        right += answer == problem.answer
    assert 100 < right < 390  # neither all right nor all wrong
    assert say("wait", "zh") != "wait"
