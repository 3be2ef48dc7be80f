from __future__ import annotations

import pytest
import torch
from tiny_training import sample_rows, sgd, tiny_decoder, weights_of

from aha.model.heads import ValueModel
from aha.train.batch import collate_policy
from aha.train.value_step import compute_values, value_step


@pytest.mark.parametrize("budget", [1, 1000])
def test_the_loss_is_the_mean_over_all_tokens_of_all_micro_batches(budget: int) -> None:
    model = ValueModel(tiny_decoder(0))
    with torch.no_grad():
        model.value.copy_(torch.linspace(-0.5, 0.7, 8, dtype=torch.float64))
    rows = sample_rows(3, [(3, 4), (1, 1), (5, 2)])
    batches = collate_policy(rows, weights=[1.0] * 3, token_budget=budget)
    values = compute_values(model, batches)
    returns = [0.3 * torch.arange(len(part), dtype=torch.float64) for part in values]
    old = [part + 0.5 for part in values]  # the clip keeps a value within 0.2 of these
    metrics = value_step(model, sgd(model), batches, returns, old, clip=0.2, lr=0.0, max_grad_norm=1.0)
    now, then, wanted = (torch.cat(parts) for parts in (values, old, returns))
    losses = torch.maximum((now - wanted).square(), (then - 0.2 - wanted).square()) / 2
    assert len(now) == 7 and metrics["value_loss"] == pytest.approx(losses.mean().item(), rel=1e-6)


def test_the_step_is_descent_on_that_mean() -> None:
    model = ValueModel(tiny_decoder(0))
    batches = collate_policy(sample_rows(3, [(3, 4), (1, 1), (5, 2)]), weights=[1.0] * 3, token_budget=8)
    values = compute_values(model, batches)
    wanted = [torch.ones_like(part) for part in values]
    before, weights = [], weights_of(model).clone()
    for lr in (1e-3, 0.0):
        how = {"clip": None, "lr": lr, "max_grad_norm": 1e9}
        before.append(value_step(model, sgd(model), batches, wanted, values, **how))  # type: ignore[arg-type]
    assert not torch.equal(weights, weights_of(model))
    fall = before[1]["value_loss"] - before[0]["value_loss"]
    assert fall == pytest.approx(-1e-3 * before[0]["value_grad_norm"] ** 2, rel=0.05)
