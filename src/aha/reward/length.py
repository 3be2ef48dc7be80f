"""Rewards of length as published, each a pure function of token counts. Lengths are completion tokens, the end token
included; ``right`` is the accuracy verdict.

Two kinds: ``soft_overlong`` and ``kimi_k15`` are added to the accuracy reward; ``cosine``, ``l1_exact``, ``l1_max``
and ``efficient`` contain it and take its place. None of them pays for length as such: where that was tried, models
earned it by repeating themselves (STILL-3, 2503.04548). Settings that cannot be are a ``SettingError``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from aha.errors import SettingError


def soft_overlong(length: int, *, max_length: int, cache: int) -> float:
    """0 up to ``max_length - cache``, then a line down to -1 at ``max_length``, and -1 beyond.

    ``((max_length - cache) - length) / cache`` on the line. Right and wrong alike. DAPO (2503.14476) equation 13:
    max_length 20,480, cache 4,096.
    """
    if not 0 < cache <= max_length:
        raise SettingError(f"the soft zone (cache={cache}) must lie in 1 .. max_length={max_length}")
    return min(0.0, max(-1.0, (max_length - cache - length) / cache))


def kimi_k15(lengths: Sequence[int], right: Sequence[bool]) -> list[float]:
    """The length reward of each completion of ONE group: ``l = 0.5 - (length - min) / (max - min)``, in [-0.5, 0.5].

    A right completion gets ``l``, a wrong one ``min(0, l)``: being short pays only when right, being long costs both.
    All are 0 where the group has one length. Kimi k1.5 (2501.12599) section 2.3.3, which begins without it: early on
    it teaches short wrong answers. Give its reward a late ``start`` (reward/rubric.py).
    """
    shortest, longest = _range(lengths, right)
    if shortest == longest:
        return [0.0] * len(lengths)
    lambdas = [0.5 - (length - shortest) / (longest - shortest) for length in lengths]
    return [share if good else min(0.0, share) for share, good in zip(lambdas, right, strict=True)]


def cosine(
    length: int,
    right: bool,
    *,
    max_length: int,
    right_range: tuple[float, float] = (1.0, 0.5),
    wrong_range: tuple[float, float] = (-1.0, -0.5),
    exceed: float | None = None,
) -> float:
    """From a value at length 0 to one at ``max_length`` along half a cosine: ``end + (start - end)(1 + cos(pi t)) / 2``
    with ``t = length / max_length``.

    A range is (at 0, at max_length): short right answers earn most, short wrong ones lose most. ``t`` is clipped at 1:
    unclipped, the cosine turns back and pays for length beyond the cap, as it does in two published codes. ``exceed``
    replaces the value from ``max_length`` on. Yeo et al. (2502.03373) section 4; the ranges are Open-R1's, which has
    no ``exceed``.
    """
    if max_length < 1:
        raise SettingError(f"max_length={max_length} must be at least 1")
    if exceed is not None and length >= max_length:
        return exceed
    start, end = right_range if right else wrong_range
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, length / max_length))) / 2


def l1_exact(length: int, right: bool, *, target: int, alpha: float = 3e-4) -> float:
    """``right - alpha * |target - length|``: as many tokens as the prompt asks for ("Think for ``target`` tokens").

    LCPO-Exact of L1 (2503.04697) equation 1, targets 100 to 4,000.
    """
    _check_target(target, alpha)
    return float(right) - alpha * abs(target - length)


def l1_max(length: int, right: bool, *, target: int, alpha: float = 3e-4, delta: float = 0.5) -> float:
    """``right * clip(alpha * (target - length) + delta, 0, 1)``: at most about ``target`` tokens, fewer are welcome.

    A right answer that is a little too long still earns something. LCPO-Max of L1 (2503.04697) equation 2.
    """
    _check_target(target, alpha)
    return min(1.0, max(0.0, alpha * (target - length) + delta)) if right else 0.0


def efficient(lengths: Sequence[int], right: Sequence[bool], *, alpha: float) -> list[float]:
    """``right * (1 - alpha * sigmoid((length - mean) / std))`` for each completion of ONE group.

    Mean and (population) deviation are those of the group's right completions, so that hard problems may be long;
    right completions of one length are all at the mean. A right one always earns more than ``1 - alpha``, which is
    above a wrong one's 0. Arora and Zanette (2502.04463) section 4.
    """
    if not 0 <= alpha < 1:
        raise SettingError(f"alpha={alpha} must lie in [0, 1): at 1 a long right answer earns as little as a wrong one")
    _range(lengths, right)
    good = [length for length, is_right in zip(lengths, right, strict=True) if is_right]
    if not good:
        return [0.0] * len(lengths)
    mean = sum(good) / len(good)
    std = math.sqrt(sum((length - mean) ** 2 for length in good) / len(good))
    units = [(length - mean) / std if std else 0.0 for length in lengths]
    return [1 - alpha / (1 + math.exp(-z)) if g else 0.0 for z, g in zip(units, right, strict=True)]


def _range(lengths: Sequence[int], right: Sequence[bool]) -> tuple[int, int]:
    if not lengths or len(lengths) != len(right):
        raise ValueError(f"a group has a length and a verdict for each completion, not {len(lengths)} and {len(right)}")
    if min(lengths) < 0:
        raise ValueError(f"a length of {min(lengths)} tokens")
    return min(lengths), max(lengths)


def _check_target(target: int, alpha: float) -> None:
    if target < 1 or alpha < 0:
        raise SettingError(f"target={target} must be at least 1 token, alpha={alpha} at least 0")
