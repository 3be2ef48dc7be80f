"""The update that all steps share, on one weight: what is summed, refused, cut, thrown away and said."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from aha.errors import InvariantError
from aha.train.batch import PackedBatch, collate_packed
from aha.train.update import first_eight, on_device_of, update

BATCHES = collate_packed([([1, 2, 3], [1, 1, 1]), ([4, 5, 6], [1, 1, 1])], width=2)


class Line(torch.nn.Module):
    """Each batch pulls by its own ``slope`` and says its own ``loss``."""

    def __init__(self, slopes: list[float], losses: list[float]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([2.0]))
        self.optimizer = torch.optim.SGD(self.parameters(), lr=99.0)
        self._said = {id(batch): said for batch, said in zip(BATCHES, zip(slopes, losses, strict=True), strict=True)}

    def backward(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        slope, loss = self._said[id(batch)]
        (self.weight * slope).sum().backward()  # type: ignore[no-untyped-call]
        return torch.tensor(loss), torch.tensor([loss, slope])

    def update(self, **limits: float) -> tuple[float, list[list[float]], float]:
        return update(self.optimizer, BATCHES, self.backward, **{"lr": 0.1, "max_grad_norm": 100.0, **limits})  # type: ignore[arg-type]


def test_by_hand() -> None:
    line = Line([3.0, 1.0], [0.5, 0.25])
    assert line.update() == (0.75, [[0.5, 3.0], [0.25, 1.0]], 4.0)
    assert line.weight.item() == pytest.approx(2.0 - 0.1 * 4.0)
    line.update(max_grad_norm=1.0)  # gradients of the step before are gone
    assert line.weight.item() == pytest.approx(1.6 - 0.1)


def test_a_norm_at_the_limit_is_taken_and_one_above_it_thrown_away() -> None:
    line = Line([3.0, 1.0], [0.5, 0.25])
    assert line.update(skip_above=math.nextafter(4.0, 0.0))[2] == 4.0
    assert line.weight.item() == 2.0 and line.weight.grad is None
    line.update(skip_above=4.0)
    assert line.weight.item() == pytest.approx(1.6)


@pytest.mark.parametrize(
    ("slopes", "losses", "words"),
    [
        ([3.0, math.inf], [0.5, 0.25], "micro-batch 1 of 2: loss 0.25, gradient norm inf"),
        ([3.0, 1.0], [math.nan, 0.25], "micro-batch 0 of 2: loss nan, gradient norm 3"),
        ([3e38, 3e38], [0.5, 0.25], "every micro-batch alone is finite, but the norm of their sum is inf"),
    ],
)
def test_what_is_not_finite_changes_nothing_and_is_named(slopes: list[float], losses: list[float], words: str) -> None:
    line = Line(slopes, losses)
    with pytest.raises(InvariantError, match=f"the weights are unchanged: {words}"):
        line.update()
    assert line.weight.item() == 2.0 and line.weight.grad is None


def test_eight_are_named() -> None:
    assert first_eight(range(8)) == "0, 1, 2, 3, 4, 5, 6, 7" and first_eight(range(9)) == "0, 1, 2, 3, 4, 5, 6, 7, ..."


def test_a_batch_goes_where_the_weights_are() -> None:
    moved = on_device_of(torch.nn.Linear(1, 1, device="meta"), BATCHES[0])
    assert moved.ids_BT.is_meta and moved.weights_BT.is_meta and not BATCHES[0].ids_BT.is_meta
