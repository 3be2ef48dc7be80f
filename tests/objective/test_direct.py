"""Preference optimisation: each loss by hand, its gradient by finite differences, and what a row may not say."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from aha.errors import SettingError
from aha.objective.direct import (
    PREFERENCES,
    compute_pair_losses,
    compute_score,
    dpo_loss,
    ipo_loss,
    kto_loss,
    simpo_loss,
)

LN3 = math.log(3)  # sigmoid(ln 3) = 3/4


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_dpo_by_hand() -> None:
    loss = dpo_loss(tensor(0.0, 10 * LN3, -5000.0), tensor(0.0, 0.0, 5000.0), beta=0.1)
    assert loss.tolist() == pytest.approx([math.log(2), math.log(4 / 3), 1000.0])


def test_ipo_by_hand() -> None:
    loss = ipo_loss(tensor(5.0, 0.0, 7.0), tensor(0.0, 0.0, 1.0), beta=0.1)  # the target is 1 / 0.2 = 5
    assert loss.tolist() == pytest.approx([0.0, 25.0, 1.0])


def test_simpo_by_hand() -> None:
    loss = simpo_loss(tensor(-1.0, -1.0), tensor(-1.0, -1.0 - (LN3 + 1) / 2), beta=2.0, margin=1.0)
    assert loss.tolist() == pytest.approx([math.log1p(math.e), math.log(4 / 3)])


def test_kto_by_hand() -> None:
    """At z = 2 a chosen score of 2 + ln 3 / beta keeps a quarter of its loss; one at z half of it."""
    arguments = {"beta": 0.5, "desirable": 1.0, "undesirable": 3.0}
    loss = kto_loss(tensor(2.0 + 2 * LN3), tensor(2.0), torch.tensor(2.0), **arguments)
    assert loss.item() == pytest.approx((0.25 + 3 * 0.5) / 2)
    assert kto_loss(tensor(1.0), tensor(0.5), torch.tensor(-7.0), **arguments).item() == pytest.approx(
        kto_loss(tensor(1.0), tensor(0.5), torch.tensor(0.0), **arguments).item()
    )  # a distance is not negative


def test_the_baseline_has_no_gradient() -> None:
    baseline = torch.tensor(2.0, requires_grad=True)
    chosen = torch.tensor([3.0], requires_grad=True)
    kto_loss(chosen, chosen - 1, baseline, beta=0.5, desirable=1.0, undesirable=1.0).sum().backward()
    assert baseline.grad is None and chosen.grad is not None


@pytest.mark.parametrize("name", PREFERENCES)
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logps = [-torch.rand(6, generator=generator, dtype=torch.float64) * 20 for _ in range(4)]
    lengths = tensor(1, 4, 7, 3, 9, 2)
    row = PREFERENCES[name]

    def losses(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        scores = [
            compute_score(logp, reference, lengths, row=row)
            for logp, reference in ((chosen, logps[2]), (rejected, logps[3]))
        ]
        return compute_pair_losses(*scores, torch.tensor(0.7, dtype=torch.float64), row=row)

    chosen, rejected = (logp.clone().requires_grad_() for logp in logps[:2])
    assert torch.autograd.gradcheck(losses, (chosen, rejected))
    gradients = torch.autograd.grad(losses(chosen, rejected).sum(), (chosen, rejected))
    if name != "ipo":  # which also pulls a margin back that is over its target
        assert (gradients[0] < 0).all() and (gradients[1] > 0).all()


def test_a_score_is_a_log_ratio_or_a_mean() -> None:
    logp, reference, lengths = tensor(-6.0), tensor(-8.0), tensor(4.0)
    scores = {n: compute_score(logp, reference, lengths, row=row).item() for n, row in PREFERENCES.items()}
    assert scores == {"dpo": 2.0, "ipo": 0.5, "kto": 2.0, "simpo": -1.5}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"beta": 0.0}, "beta is 0.0"),
        ({"margin": 1.0}, "dpo has none"),
        ({"undesirable": -1.0}, "negative"),
        ({"loss": "kto", "reference": False}, "reference"),
    ],
)
def test_a_row_that_cannot_be(change: dict[str, object], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        replace(PREFERENCES["dpo"], **change)
