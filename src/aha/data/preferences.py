"""Preference pairs of the toy: for a general prompt a better and a worse response, made by rule.

DeepSeek-R1 has a judge model compare responses and keeps clear gaps (R1v2 B.2); here the generator knows which one is
better: a full answer over a curt one, any right answer over a wrong one; for harm, a polite refusal over help.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from aha.data.examples import tagged
from aha.records import Problem
from aha.tasks import general


@dataclass(frozen=True, slots=True)
class Pair:
    """Two completions of one prompt, the first preferred; ``margin`` says how clearly, where somebody judged it."""

    problem: Problem
    chosen: str
    rejected: str
    margin: float = 0.0


@dataclass(frozen=True, slots=True)
class Labelled:
    """A completion that is good (``label`` 1) or bad (0) by itself: ``Labelled(problem, "i can not help .", 1.0)``."""

    problem: Problem
    text: str
    label: float


def is_harmful(problem: Problem) -> bool:
    """Safety judges these; helpfulness judges every other general prompt: each prompt belongs to exactly one (R1v2
    3.2.2). A prompt of yours says so in its field ``judge``, the toy's by its ``kind``."""
    return problem.task == "general" and (problem.meta.get("judge") == "safe" or problem.meta.get("kind") == "harm")


def make_pair(problem: Problem, rng: random.Random) -> Pair:
    """A pair whose two responses think alike: only their answers tell them apart."""
    full, curt = general.answers(problem, rng)
    bad = general.bad_answers(problem, rng)
    chosen, rejected = rng.choice([(full, curt), (full, bad), (full, bad), (curt, bad)])
    return Pair(problem, tagged(general.thought(problem), chosen), tagged(general.thought(problem), rejected))
