"""Which problems a step asks, given how often each was answered right: one pure function a strategy.

All take the problems, their pass ``rates`` by key (in [0, 1]; a problem that was never asked has none), how many to ask
and the step's generator, and return that many different problems, or raise ``DataError`` when there are too few. A
strategy prefers; what it would rather not ask it asks only when nothing else is left.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

from aha.data.draw import check_enough, weighted_sample
from aha.errors import DataError
from aha.records import Problem

Rates = Mapping[str, float]


def nearest_difficulty(
    problems: Sequence[Problem], count: int, rng: random.Random, *, target: float
) -> list[Problem]:
    """The ``count`` problems whose difficulty is nearest to ``target``; chance decides between equals.

    AdaRFT (2504.05520) section 3, with :func:`next_target`.
    """
    check_enough(len(problems), count)
    far = [(abs(difficulty(problem) - target), rng.random()) for problem in problems]
    return [problems[i] for i in sorted(range(len(problems)), key=far.__getitem__)[:count]]


def next_target(
    target: float, mean_reward: float, *, eta: float, alpha: float, beta: float, low: float, high: float
) -> float:
    """``target + eta * tanh(alpha * (mean_reward - beta))``, kept in [``low``, ``high``]: harder while more than
    ``beta`` of the answers are right, easier while fewer are. AdaRFT (2504.05520) section 3; its settings, for
    difficulties from 0 to 100: eta 50, alpha 2, beta 0.5."""
    return min(high, max(low, target + eta * math.tanh(alpha * (mean_reward - beta))))


def in_window(
    problems: Sequence[Problem],
    rates: Rates,
    count: int,
    rng: random.Random,
    *,
    low: float,
    high: float,
    easy_share: float,
) -> list[Problem]:
    """Problems with ``low <= pass rate < high``, or without a rate yet, and ``easy_share`` of the step from the easy
    pool (``high`` or above), so that what was learned is not forgotten.

    MiMo (2505.07608) keeps a pool of always-right problems and draws 10 % from it; PRIME's window is 0.2 to 0.8. Each
    part fills up what another lacks; problems below the window come last.
    """
    check_enough(len(problems), count)
    easy: list[Problem] = []
    inside: list[Problem] = []
    hard: list[Problem] = []
    for problem in problems:
        rate = rates.get(problem.key, low)
        (hard if rate < low else inside if rate < high else easy).append(problem)
    for part in (easy, inside, hard):
        rng.shuffle(part)
    num_easy = min(len(easy), round(easy_share * count))
    return [*easy[:num_easy], *inside, *easy[num_easy:], *hard][:count]


def not_mastered(problems: Sequence[Problem], rates: Rates, count: int, rng: random.Random) -> list[Problem]:
    """Every problem but those that were always right when last asked; the always-wrong ones stay, since the policy may
    grow into them. History resampling of SRPO (2504.14286) section 3; keep rates of the last visit (``decay=0``)."""
    return in_window(problems, rates, count, rng, low=0.0, high=1.0, easy_share=0.0)


def by_failure(problems: Sequence[Problem], rates: Rates, count: int, rng: random.Random) -> list[Problem]:
    """Each problem with a chance in proportion to ``1 - pass rate`` (Kimi k1.5, 2501.12599, section 2.3.4,
    prioritised sampling); one without a rate counts as never right."""
    check_enough(len(problems), count)
    return weighted_sample(problems, [1 - rates.get(problem.key, 0.0) for problem in problems], count, rng)


def by_uncertainty(problems: Sequence[Problem], rates: Rates, count: int, rng: random.Random) -> list[Problem]:
    """Each problem with a chance in proportion to ``sqrt(p (1 - p))`` of its pass rate p: a group's expected deviation,
    which is what a group-relative advantage learns from (SPO, 2509.13232). One without a rate counts as a half."""
    check_enough(len(problems), count)
    chances = [rates.get(problem.key, 0.5) for problem in problems]
    return weighted_sample(problems, [math.sqrt(max(0.0, p * (1 - p))) for p in chances], count, rng)


def difficulty(problem: Problem) -> float:
    """``meta["difficulty"]``, or else ``meta["level"]``: any scale, higher is harder. ``DataError`` without either."""
    value = problem.meta.get("difficulty", problem.meta.get("level"))
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(
            f"problem {problem.id!r}: a target difficulty needs a number as 'difficulty' or 'level', found {value!r}"
        )
    return float(value)
