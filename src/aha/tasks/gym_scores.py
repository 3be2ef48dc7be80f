"""The verifiers of reasoning-gym: runs in a worker process only, since some evaluate what they are given."""

from __future__ import annotations

import ast
import functools
from typing import Any

import reasoning_gym


def compute_score(family: str, entry: str, answer: str) -> float:
    """Between 0 and 1; ``entry`` holds Python literals."""
    return float(_dataset(family).score_answer(answer, ast.literal_eval(entry)))


@functools.cache
def _dataset(family: str) -> Any:
    return reasoning_gym.create_dataset(family, size=1, seed=0)
