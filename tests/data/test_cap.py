"""The length cap in stages."""

from __future__ import annotations

import pytest

from aha.data.cap import cap_at
from aha.errors import SettingError

DEEPSCALER = ((0, 8_192), (1_040, 16_384), (1_520, 24_576))


@pytest.mark.parametrize(
    ("step", "cap"), [(0, 8_192), (1_039, 8_192), (1_040, 16_384), (1_519, 16_384), (1_520, 24_576), (9_999, 24_576)]
)
def test_the_stages_of_deepscaler(step: int, cap: int) -> None:
    assert cap_at(step, DEEPSCALER) == cap


def test_a_cap_may_fall() -> None:
    assert [cap_at(step, [(0, 40), (2, 10)]) for step in range(4)] == [40, 40, 10, 10]


@pytest.mark.parametrize(
    "stages", [[], [(1, 5)], [(0, 5), (0, 6)], [(0, 5), (9, 6), (3, 7)], [(0, 0)], [(0, 5), (1, -1)]]
)
def test_stages_that_cannot_be_are_named(stages: list[tuple[int, int]]) -> None:
    with pytest.raises(SettingError, match="length cap"):
        cap_at(0, stages)
