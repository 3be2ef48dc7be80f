"""The toy's pre-training text: a small bilingual web of mixed quality, made by seed.

Like a real crawl it holds good and bad reasoning side by side: drills, forum answers half of which are wrong, chats
with and without tags, steps that are skipped, mistakes noticed and mistakes kept, searches given up too early, thoughts
that switch language. A base model trained on it can reason but seldom does, which is what reinforcement learning then
changes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from aha.data.examples import tagged
from aha.data.problems import is_held_out, toy_general, toy_problem
from aha.records import Problem
from aha.tasks import chain, countdown, general
from aha.tasks.words import ACTIONS, ADJECTIVES, LANGUAGES, NOUNS, other, say

TEMPLATE = "User : {question} ? Assistant :"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
SHARES = {"drill": 26, "sentences": 3, "general": 22, "forum": 9, "chat": 40}


def documents(rng: random.Random) -> Iterator[str]:
    """Endless documents, none of them about a held-out problem."""
    while True:
        kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
        if kind == "drill":
            yield _drill(rng)
        elif kind == "sentences":
            yield _sentences(rng)
        elif kind == "general":
            yield _general(rng, toy_general(rng, held_out=False))
        elif kind == "forum":
            yield _forum(rng, toy_problem(rng, held_out=False))
        else:
            yield _chat(rng, toy_problem(rng, held_out=False))


def _drill(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return _pointing(rng)
    lines = []
    for _ in range(rng.randint(4, 9)):
        if rng.random() < 0.3:
            lines.append(_comparison(rng))
            continue
        a, b = rng.randint(0, 60), rng.randint(1, 9)  # totals as the chains have them
        minus = a - b >= 0 and rng.random() < 0.5
        lines.append(f"{a} - {b} = {a - b} ." if minus else f"{a} + {b} = {a + b} .")
    return " ".join(lines)


def _pointing(rng: random.Random) -> str:
    """``compute 16 #1 - 6 #2 + 4 : #2 + 4 . #1 - 6 .``: looking operations up by number, in any order."""
    problem = toy_problem(rng, held_out=False)
    while problem.task != "chain":
        problem = toy_problem(rng, held_out=False)
    operations = [f"{number} {op} {b} ." for _, number, op, b, _ in chain.steps(problem.meta["expression"])]
    return f"{problem.prompt} : {' '.join(rng.sample(operations, len(operations)))}"


def _comparison(rng: random.Random) -> str:
    """``make 24 : 21 + 5 = 26 - 2 = 24 yes .``: is this total the wanted one?"""
    while True:
        rest = [rng.randint(1, 9), rng.randint(1, 9)]
        numbers = [rng.randint(sum(rest) + 1, 40), *rest]
        signs, other_signs = (rng.choice(countdown.sign_choices(3)) for _ in range(2))
        total = countdown.evaluate_signs(numbers[0], rest, signs)
        wanted = total if rng.random() < 0.5 else countdown.evaluate_signs(numbers[0], rest, other_signs)
        if not is_held_out(countdown.problem_id(numbers, wanted)):
            break
    verdict = "yes" if total == wanted else "no"
    return say(f"make {wanted} : {countdown.attempt(numbers, signs)} {verdict} .", rng.choice(LANGUAGES))


def _sentences(rng: random.Random) -> str:
    language, parts = rng.choice(LANGUAGES), []
    for _ in range(rng.randint(3, 7)):
        thing = f"{rng.choice(list(ADJECTIVES))} {rng.choice(list(NOUNS))}"
        parts.append(say(f"the {thing} {rng.choice(list(ACTIONS))} here .", language))
        if rng.random() < 0.1:
            language = other(language)
    return " ".join(parts)


def _prompt(question: str) -> str:
    return TEMPLATE.replace("{question}", question)


def _general(rng: random.Random, problem: Problem) -> str:
    full, curt = general.answers(problem, rng)
    answer = general.bad_answers(problem, rng) if rng.random() < 0.2 else full if rng.random() < 0.3 else curt
    if rng.random() < 0.5:
        return f"{_prompt(problem.prompt)} {answer}"
    return f"{_prompt(problem.prompt)} {tagged(general.thought(problem), answer)}"


def _guess(rng: random.Random, problem: Problem) -> str:
    """An answer given at once: right one time in seven."""
    if rng.random() < 0.15:
        return problem.answer
    if problem.task == "chain":
        return str(min(chain.LIMIT, max(0, int(problem.answer) + rng.choice([-1, 1]) * rng.randint(1, 9))))
    numbers = problem.meta["numbers"]
    return countdown.expression(numbers, rng.choice(countdown.sign_choices(len(numbers))))


class _Voice:
    """Words of one reasoner: the prompt's language, the other, or switching between sentences."""

    def __init__(self, rng: random.Random, language: str) -> None:
        draw = rng.random()
        self.rng = rng
        self.language = language if draw < 0.7 else other(language)
        self.switches = draw < 0.3
        if self.switches:
            self.language = rng.choice(LANGUAGES)

    def say(self, text: str) -> str:
        if self.switches and self.rng.random() < 0.4:
            self.language = other(self.language)
        return say(text, self.language)


def _chain_reasoning(rng: random.Random, problem: Problem) -> tuple[str, str]:
    """Thought and answer of a reasoner who errs in 1, 3 or 9 % of the steps, and may check, repair or skip."""
    voice, slip = _Voice(rng, problem.language), rng.choice([0.01, 0.03, 0.09])
    repairs, checks, skips = rng.random() < 1 / 3, rng.random() < 0.2, rng.random() < 0.15
    todo = chain.steps(problem.meta["expression"])
    sentences: list[str] = []
    total, i = todo[0][0], 0
    while i < len(todo):
        span = 2 if skips and i + 1 < len(todo) and rng.random() < 0.5 else 1
        text, right = str(total), total
        for _, number, operator, operand, _ in todo[i : i + span]:
            text += f" {number} {operator} {operand}"
            right = right + operand if operator == "+" else right - operand
        right = min(chain.LIMIT, max(0, right))
        written = right
        if rng.random() < slip:
            written = min(chain.LIMIT, max(0, right + rng.choice([-2, -1, 1, 2, 10])))
        sentences.append(voice.say(f"{'then' if sentences else 'first'} {text} = {written} ."))
        if written != right and repairs and rng.random() < 0.8:
            sentences.append(voice.say(f"wait {text} = {right} ."))
            written = right
        elif checks and rng.random() < 0.4:
            sentences.append(voice.say(f"check {text} = {written} ok ."))
        total, i = written, i + span
    return " ".join(sentences), str(total)


def _countdown_reasoning(rng: random.Random, problem: Problem) -> tuple[str, str]:
    """A search over signs: patient in some documents, given up after one or two tries in most."""
    voice = _Voice(rng, problem.language)
    numbers, target = problem.meta["numbers"], problem.meta["target"]
    patience = len(countdown.sign_choices(len(numbers))) if rng.random() < 0.4 else rng.choice([1, 1, 2])
    careless = rng.random() < 0.1
    sentences, answer = [], problem.answer
    for i, signs in enumerate(countdown.sign_choices(len(numbers)), 1):
        answer = countdown.expression(numbers, signs)
        fits = countdown.evaluate_signs(numbers[0], numbers[1:], signs) == target
        says_yes = fits or (careless and rng.random() < 0.3)
        sentences.append(voice.say(f"try {countdown.attempt(numbers, signs)} {'yes' if says_yes else 'no'} ."))
        if says_yes or i >= patience:
            break
    return " ".join(sentences), answer


def reasoning(rng: random.Random, problem: Problem) -> tuple[str, str]:
    return _chain_reasoning(rng, problem) if problem.task == "chain" else _countdown_reasoning(rng, problem)


def _forum(rng: random.Random, problem: Problem) -> str:
    if rng.random() < 0.25:
        return f"Question : {problem.prompt} ? Answer : {_guess(rng, problem)}"
    thought, answer = reasoning(rng, problem)
    return f"Question : {problem.prompt} ? Answer : {thought} {say('so', problem.language)} {answer}"


def _chat(rng: random.Random, problem: Problem) -> str:
    prompt = _prompt(problem.prompt)
    if rng.random() >= 0.24:
        if rng.random() < 0.5:
            return f"{prompt} {_guess(rng, problem)}"
        thought, answer = reasoning(rng, problem)
        return f"{prompt} {thought} {answer}"
    if rng.random() < 0.2:
        thought, answer = _Voice(rng, problem.language).say("hmm ."), _guess(rng, problem)
    else:
        thought, answer = reasoning(rng, problem)
    text = tagged(thought, answer)
    if rng.random() < 0.1:
        dropped = rng.choice(TAGS)
        text = " ".join(word for word in text.split() if word != dropped)
    return f"{prompt} {text}"
