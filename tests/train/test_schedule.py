from __future__ import annotations

import pytest

from aha.train.schedule import learning_rate


def rates(shape: str, *, warmup: int = 4, total: int = 9, final_ratio: float = 0.1) -> list[float]:
    return [
        learning_rate(s, base=2.0, warmup=warmup, total=total, shape=shape, final_ratio=final_ratio)  # type: ignore[arg-type]
        for s in range(total + 2)
    ]


def test_linear_by_hand() -> None:
    expected = [0.5, 1.0, 1.5, 2.0, 2.0, 1.55, 1.1, 0.65, 0.2, 0.2, 0.2]
    assert rates("linear") == pytest.approx(expected)


def test_cosine_ends_and_middle() -> None:
    values = rates("cosine")
    assert values[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
    assert values[6] == pytest.approx((2.0 + 0.2) / 2)
    assert values[8] == values[9] == pytest.approx(0.2)


def test_constant_does_not_fall() -> None:
    assert rates("constant", warmup=2) == pytest.approx([1.0] + [2.0] * 10)


def test_single_step_without_warmup_has_the_full_rate() -> None:
    assert rates("cosine", warmup=0, total=1)[0] == 2.0
