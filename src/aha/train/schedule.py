"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math
from typing import Literal


def learning_rate(
    step: int,
    *,
    base: float,
    warmup: int,
    total: int,
    shape: Literal["constant", "linear", "cosine"],
    final_ratio: float,
) -> float:
    """The rate of update ``step`` (0-based, of ``total``).

    Updates 0 .. warmup-1 rise in equal parts, the first to ``base / warmup``. From update ``warmup`` (at ``base``) the
    rate falls along ``shape`` to ``base * final_ratio``, which the last update has and any later one keeps;
    "constant" does not fall. R1's supervised stages are cosine with final_ratio 0.1 (2501.12948v2, B.4.2).
    """
    if step < warmup:
        return base * (step + 1) / warmup
    if shape == "constant":
        return base
    done = min(1.0, (step - warmup) / max(1, total - 1 - warmup))
    left = 1 - done if shape == "linear" else (1 + math.cos(math.pi * done)) / 2
    return base * (final_ratio + (1 - final_ratio) * left)
