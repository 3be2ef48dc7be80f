"""When a reward counts, as a pure function of the stage's progress."""

from __future__ import annotations

from aha.errors import SettingError


def weight_at(progress: float, *, start: float = 0.0, end: float | None = None, ramp: float = 0.0) -> float:
    """The share in [0, 1] of a reward's weight at ``progress`` (steps done over all steps, in [0, 1]).

    0 before ``start`` and from ``end`` on (``None``: it never ends), 1 between. With a ``ramp`` the share rises from 0
    at ``start`` to 1 at ``start + ramp``, and falls as slowly to 0 at ``end``. DeepSeek-R1 counts preference rewards in
    the last 400 of 1,700 steps alone (R1v2 3.2.2): start = 1300 / 1700. Kimi k1.5 begins without a length reward
    (2501.12599 section 2.3.3).
    """
    if not (0 <= start <= 1 and ramp >= 0 and (end is None or start < end)):
        raise SettingError(f"a reward's start={start} must lie in [0, 1] and before its end={end}; ramp={ramp} from 0")
    if progress < start or (end is not None and progress >= end):
        return 0.0
    if not ramp:
        return 1.0
    return min(1.0, (progress - start) / ramp, 1.0 if end is None else (end - progress) / ramp)
