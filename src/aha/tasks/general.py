"""General prompts of the toy: translate, write a sentence, give help, decline harm, say who you are.

They stand for the 200k non-reasoning samples of DeepSeek-R1 (R1v2 table 5) and its general RL prompts. Each has a rule
score (``score``), several acceptable answers (a full one and a curt one, ``answers``) and typical bad ones
(``bad_answers``), from which preference pairs are made: the full answer over the curt one over a wrong one.
"""

from __future__ import annotations

import random

from aha.records import Problem
from aha.tasks.words import ACTIONS, ADJECTIVES, CARE, HARM, NOUNS, other, say, translate

KINDS = ("translate", "sentence", "help", "harm", "identity")
WEIGHTS = (40, 20, 20, 15, 5)


def generate(rng: random.Random, *, language: str) -> Problem:
    """One prompt; the id leaves the language out, so a pair of words is held out in both."""
    kind = rng.choices(KINDS, WEIGHTS)[0]
    adjective, noun = rng.choice(list(ADJECTIVES)), rng.choice(list(NOUNS))
    thing = f"{adjective} {noun}"
    if kind == "translate":
        question, key = f"translate {thing}", thing
    elif kind == "sentence":
        question, key = f"write about {thing}", thing
    elif kind == "identity":
        question, key = "who are you", "who"
    else:
        verb = rng.choice(list(CARE if kind == "help" else HARM))
        question, key = f"how to {verb} the {thing}", f"{verb} {thing}"
    return Problem(
        id=f"general/{kind}/{key}",
        prompt=say(question, language),
        answer=say(thing, other(language)) if kind == "translate" else "",
        task="general",
        language=language,
        meta={"kind": kind, "thing": thing, "verb": key.split()[0]},
    )


def thought(problem: Problem) -> str:
    """What a good response thinks: short, in the prompt's language (R1v1 2.3.3: simple requests need no long chain)."""
    meta = problem.meta
    text = {
        "translate": f"translate {meta['thing']} .",
        "sentence": f"write about {meta['thing']} .",
        "help": "this is fine .",
        "harm": "this is harmful .",
        "identity": "who am i .",
    }[meta["kind"]]
    return say(text, problem.language)


def answers(problem: Problem, rng: random.Random) -> tuple[str, str]:
    """A full and a curt answer, both right by rule."""
    meta, language = problem.meta, problem.language
    kind, thing = meta["kind"], meta["thing"]
    if kind == "translate":
        return problem.answer + " .", problem.answer
    if kind == "sentence":
        action = rng.choice(list(ACTIONS))
        return say(f"the {thing} {action} here .", language), say(f"{thing} {action} .", language)
    if kind == "help":
        full = f"gladly . you can {meta['verb']} the {thing} with care . good luck ."
        return say(full, language), say(f"{meta['verb']} the {thing} .", language)
    if kind == "harm":
        return say("sorry , i can not help with that . good luck .", language), say("sorry , i can not .", language)
    return say("i am aha , a helper . gladly .", language), say("i am aha .", language)


def bad_answers(problem: Problem, rng: random.Random) -> str:
    """One typical bad answer: wrong thing, wrong language, a refusal of a harmless wish, or help with harm."""
    meta, language = problem.meta, problem.language
    kind, thing = meta["kind"], meta["thing"]
    wrong = f"{rng.choice(list(ADJECTIVES))} {rng.choice(list(NOUNS))}"
    while wrong == thing:
        wrong = f"{rng.choice(list(ADJECTIVES))} {rng.choice(list(NOUNS))}"
    if kind == "harm":
        full = f"gladly . you can {meta['verb']} the {thing} ."
        return say(rng.choice([full, f"{meta['verb']} the {thing} .", "gladly ."]), language)
    if kind == "translate":
        options = [say(wrong, other(language)), say(thing, language), say("sorry .", language)]
    elif kind == "sentence":
        action = rng.choice(list(ACTIONS))
        options = [
            say(f"the {wrong} {action} here .", language),
            say(f"the {thing} {action} here .", other(language)),
            say(f"{thing} .", language),
        ]
    elif kind == "help":
        options = [
            say("sorry , i can not help with that .", language),
            say(f"you can {meta['verb']} the {wrong} .", language),
            say(f"{meta['verb']} the {thing} .", other(language)),
        ]
    else:
        options = [say("you are a helper .", language), say(f"i am a {wrong} .", language), say("sorry .", language)]
    return rng.choice(options)


def score(problem: Problem, answer: str) -> float:
    """Rule score 0 or 1: the words of a right answer in their order, in the right language, and none that take them
    back: a ``not`` or ``sorry``, another noun, or, in a refusal, any harm or ``gladly``."""
    meta, language = problem.meta, problem.language
    words = answer.split()
    english = translate(answer, "en").split()
    if meta["kind"] == "translate":
        return float([w for w in words if w != "."] == problem.answer.split())
    if not words or len(words) > 24 or say(" ".join(english), language).split() != words:
        return 0.0
    text = f" {' '.join(english)} "
    if meta["kind"] == "harm":
        return float(text.startswith(" sorry , i can not ") and not {"gladly", *HARM} & set(english))
    if {"not", "sorry"} & set(english):
        return 0.0
    if meta["kind"] == "identity":
        return float(" i am aha " in text)
    nouns = [w for w in english if w in NOUNS]
    if meta["kind"] == "sentence":
        said = english[-1] == "." and any(f" {meta['thing']} {action} " in text for action in ACTIONS)
    else:
        said = f" {meta['verb']} the {meta['thing']} " in text
    return float(said and nouns == meta["thing"].split()[1:])
