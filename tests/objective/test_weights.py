from __future__ import annotations

import pytest
import torch

from aha.errors import InvariantError
from aha.objective.weights import token_weights


def step_mean(token_losses: list[list[float]], aggregation: str) -> float:
    weights = token_weights([len(x) for x in token_losses], aggregation).tolist()  # type: ignore[arg-type]
    return sum(w * sum(losses) for w, losses in zip(weights, token_losses, strict=True)) / len(token_losses)


def test_sequence_mean_then_mean_of_sequences() -> None:
    assert step_mean([[3.0], [1.0, 2.0, 0.0, 1.0]], "sequence") == pytest.approx((3 + 1) / 2)


def test_token_mean_over_the_step() -> None:
    assert step_mean([[3.0], [1.0, 2.0, 0.0, 1.0]], "token") == pytest.approx(7 / 5)


def test_takes_tensors_and_no_sequences() -> None:
    assert torch.equal(token_weights(torch.tensor([2, 4]), "sequence"), torch.tensor([0.5, 0.25], dtype=torch.float64))
    assert token_weights([], "sequence").shape == token_weights([], "token").shape == (0,)


def test_empty_completion_is_named() -> None:
    with pytest.raises(InvariantError, match="sequence 1 has 0"):
        token_weights([3, 0], "sequence")
