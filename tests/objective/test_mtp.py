from __future__ import annotations

import torch

from aha.objective.mtp import mtp_weight, targets_ahead


def test_targets_by_hand() -> None:
    """Documents a b c d and e f g in one row, with two places of padding."""
    targets = torch.tensor([[11, 12, 13, 21, 22, 0, 0]])
    segments = torch.tensor([[1, 1, 1, 2, 2, 0, 0]])
    weights = torch.tensor([[1.0, 0.5, 2.0, 1.0, 3.0, 0.0, 0.0]])
    labels, counts = targets_ahead(targets, weights, segments, ahead=1)
    assert counts.tolist() == [[0.5, 2.0, 0.0, 3.0, 0.0, 0.0, 0.0]]
    assert labels[counts > 0].tolist() == [12, 13, 22]
    labels, counts = targets_ahead(targets, weights, segments, ahead=2)
    assert counts.tolist() == [[2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    assert labels[counts > 0].tolist() == [13]


def test_a_row_of_one_document_does_not_wrap_around() -> None:
    targets, segments, weights = torch.tensor([[1, 2, 3]]), torch.ones(1, 3, dtype=torch.long), torch.ones(1, 3)
    for ahead, kept in ((1, [1.0, 1.0, 0.0]), (2, [1.0, 0.0, 0.0]), (3, [0.0, 0.0, 0.0])):
        assert targets_ahead(targets, weights, segments, ahead=ahead)[1].tolist() == [kept]


def test_weight_falls_where_deepseeks_did() -> None:
    assert [mtp_weight(done) for done in (0.0, 0.67, 0.68, 1.0)] == [0.3, 0.3, 0.1, 0.1]
