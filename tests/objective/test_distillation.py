"""The distance to a teacher's distribution by hand, by finite differences, and in chunks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from aha.objective import distillation
from aha.objective.distillation import teacher_kl


def logits(teacher_NV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states and a head that give them."""
    return teacher_NV, torch.eye(teacher_NV.shape[1])


def test_by_hand() -> None:
    hidden, head = torch.tensor([[1.0]]), torch.tensor([[0.0], [math.log(3.0)]])  # the student says 1/4, 3/4
    teacher = torch.tensor([[math.log(0.5), math.log(0.5)]])
    wanted = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert teacher_kl(hidden, head, *logits(teacher)).item() == pytest.approx(wanted, abs=1e-6)
    third = math.sqrt(3.0) / (1 + math.sqrt(3.0))  # at temperature 2 the student says sqrt(3) of 1 + sqrt(3)
    wanted = 4 * (0.5 * math.log(0.5 / (1 - third)) + 0.5 * math.log(0.5 / third))
    assert teacher_kl(hidden, head, *logits(teacher), temperature=2.0).item() == pytest.approx(wanted, abs=1e-6)
    assert teacher_kl(hidden, head, *logits(hidden @ head.T)).item() == pytest.approx(0.0, abs=1e-7)


def test_chunks_change_nothing_and_gradients_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, head = (torch.randn(n, 4, generator=generator, requires_grad=True) for n in (7, 5))
    teacher = torch.randn(7, 5, generator=generator)
    whole = teacher_kl(hidden, head, *logits(teacher), temperature=1.5)
    gradients = torch.autograd.grad(whole.sum(), (hidden, head))
    monkeypatch.setattr(distillation, "CHUNK_ELEMENTS", 10)  # two positions at a time
    parts = teacher_kl(hidden, head, *logits(teacher), temperature=1.5)
    torch.testing.assert_close(parts, whole)
    for one, other in zip(torch.autograd.grad(parts.sum(), (hidden, head)), gradients, strict=True):
        torch.testing.assert_close(one, other)
    # d KL / d logits = temperature * (student - teacher), times temperature ** 2 / temperature ** 1
    student = (hidden @ head.T / 1.5).softmax(-1)
    torch.testing.assert_close(gradients[0], 1.5 * (student - (teacher / 1.5).softmax(-1)) @ head)


def test_no_more_logits_than_the_limit_exist_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    original = distillation._kl

    def spy(hidden: torch.Tensor, *rest: Any) -> torch.Tensor:
        rows.append(len(hidden))
        return original(hidden, *rest)

    monkeypatch.setattr(distillation, "CHUNK_ELEMENTS", 25)
    monkeypatch.setattr(distillation, "_kl", spy)
    teacher_kl(torch.ones(5, 2), torch.ones(10, 2), *logits(torch.ones(5, 10)))
    assert rows == [2, 2, 1]
