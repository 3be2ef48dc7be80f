from __future__ import annotations

import pytest
import torch

from aha.objective.balance import max_violation, sequence_balance_loss, update_bias


def test_bias_by_hand() -> None:
    # mean load 4: the first had more, the second just that, the third and fourth less
    bias = torch.tensor([0.5, -0.5, 0.0, 0.1])
    moved = update_bias(bias, torch.tensor([9, 4, 1, 2]), speed=0.001)
    assert torch.allclose(moved, torch.tensor([0.499, -0.5, 0.001, 0.101]))
    assert moved.dtype == torch.float32
    assert torch.equal(update_bias(bias, torch.tensor([9, 4, 1, 2]), speed=0.0), bias)
    assert torch.equal(update_bias(bias, torch.tensor([0, 0, 0, 0]), speed=1.0), bias)


def test_max_violation_by_hand() -> None:
    counts = torch.tensor([[9, 4, 1, 2], [4, 4, 4, 4]])
    assert max_violation(counts).tolist() == [pytest.approx((9 - 4) / 4), 0.0]


def test_sequence_loss_equals_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    T, E, K = 7, 5, 2
    scores = torch.rand(T, E, generator=generator, dtype=torch.float64)
    chosen = scores.topk(K).indices
    expected = 0.0
    for i in range(E):
        f = E / (K * T) * sum(int(i in chosen[t]) for t in range(T))
        P = sum(float(scores[t, i] / scores[t].sum()) for t in range(T)) / T
        expected += f * P
    counts = torch.bincount(chosen.flatten(), minlength=E)
    shares = (scores / scores.sum(1, keepdim=True)).sum(0)
    loss = sequence_balance_loss(counts[None], shares[None], torch.tensor([T]), K)
    assert loss.tolist() == pytest.approx([expected])


def test_sequence_loss_is_one_when_even() -> None:
    counts, shares = torch.tensor([[3, 3, 3, 3], [6, 6, 0, 0]]), torch.tensor([[1.5] * 4, [3.0, 3.0, 0.0, 0.0]])
    assert sequence_balance_loss(counts, shares, torch.tensor([6, 6]), 2).tolist() == [1.0, 2.0]
