"""The cap on a completion's length, in stages."""

from __future__ import annotations

from collections.abc import Sequence

from aha.errors import SettingError


def cap_at(step: int, stages: Sequence[tuple[int, int]]) -> int:
    """The most tokens that a completion may have at ``step`` (0-based).

    ``stages`` are (first step, cap), the first from step 0. DeepScaleR's are ``[(0, 8192), (1040, 16384), (1520,
    24576)]``: its first stage teaches a distilled model to be brief, the later ones give it room. Polaris warns that a
    short first stage can harm for good.
    """
    starts = [start for start, _ in stages]
    if starts[:1] != [0] or starts != sorted(set(starts)):
        raise SettingError(f"the stages of the length cap begin at steps {starts}: the first at 0, each after the last")
    if low := [cap for _, cap in stages if cap < 1]:
        raise SettingError(f"a length cap of {low[0]} tokens")
    return [cap for start, cap in stages if start <= step][-1]
