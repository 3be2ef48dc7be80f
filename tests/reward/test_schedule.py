"""When a reward counts: by hand, and R1's last 400 of 1,700 steps."""

from __future__ import annotations

import pytest

from aha.errors import SettingError
from aha.reward.schedule import weight_at


def test_without_arguments_a_reward_always_counts() -> None:
    assert [weight_at(p) for p in (0.0, 0.5, 1.0)] == [1.0, 1.0, 1.0]


def test_r1_counts_preferences_in_the_last_400_of_1700_steps() -> None:
    shares = [weight_at(step / 1_700, start=1_300 / 1_700) for step in range(1_700)]
    assert shares == [0.0] * 1_300 + [1.0] * 400


@pytest.mark.parametrize(
    ("progress", "share"),
    [(0.0, 0.0), (0.19, 0.0), (0.2, 0.0), (0.25, 0.25), (0.3, 0.5), (0.4, 1.0), (0.6, 1.0), (0.7, 0.5), (0.8, 0.0)],
)
def test_a_ramp_goes_up_after_the_start_and_down_before_the_end(progress: float, share: float) -> None:
    assert weight_at(progress, start=0.2, end=0.8, ramp=0.2) == pytest.approx(share)


def test_two_ramps_that_meet_make_a_peak() -> None:
    assert weight_at(0.5, start=0.4, end=0.6, ramp=0.2) == pytest.approx(0.5)


def test_an_end_without_a_ramp_is_sharp() -> None:
    assert [weight_at(p, end=0.5) for p in (0.0, 0.49, 0.5, 1.0)] == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("times", [{"start": -0.1}, {"start": 1.1}, {"start": 0.5, "end": 0.5}, {"ramp": -0.1}])
def test_times_that_cannot_be_are_named(times: dict[str, float]) -> None:
    with pytest.raises(SettingError, match="start="):
        weight_at(0.5, **times)
