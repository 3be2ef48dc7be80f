"""A student's update on its teacher: with nothing soft it is that of SFT, and a twin has nothing to learn."""

from __future__ import annotations

import pytest
import torch

from aha.model.decoder import Decoder, build_decoder
from aha.testing import tiny_policy
from aha.train.batch import PackedBatch, collate_packed
from aha.train.distill import distill_step
from aha.train.optimizer import build_adamw
from aha.train.step import nll_step

CONFIG = tiny_policy().config
DOCUMENTS = [((5, 9, 2, 7, 1), (0, 0, 1, 1, 1)), ((4, 4, 8), (0, 1, 1)), ((3, 6, 6, 6), (0, 0, 0, 1))]


def batches(rows: int) -> list[PackedBatch]:
    return collate_packed(DOCUMENTS, width=8, rows_per_batch=rows)


def step(student: Decoder, teacher: Decoder, *, soft: float, rows: int = 2) -> dict[str, float]:
    optimizer = build_adamw(student, lr=1e-2)
    return distill_step(
        student, teacher, optimizer, batches(rows), soft=soft, temperature=1.0, lr=1e-2, max_grad_norm=1.0
    )


def test_without_softness_it_is_supervised_fine_tuning() -> None:
    one, other, teacher = (build_decoder(CONFIG, seed=seed) for seed in (0, 0, 1))
    found = step(one, teacher, soft=0.0)
    wanted = nll_step(other, build_adamw(other, lr=1e-2), batches(2), lr=1e-2, max_grad_norm=1.0)
    assert found["loss"] == pytest.approx(wanted["loss"], abs=1e-6) and found["tokens"] == wanted["tokens"] == 6
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_twin_has_nothing_to_learn_and_micro_batches_do_not_matter() -> None:
    twin, teacher = build_decoder(CONFIG, seed=1), build_decoder(CONFIG, seed=1)
    alike = step(twin, teacher, soft=1.0)
    assert alike["kl"] == pytest.approx(0.0, abs=1e-6) and alike["grad_norm"] == pytest.approx(0.0, abs=1e-5)
    whole, parts = build_decoder(CONFIG, seed=0), build_decoder(CONFIG, seed=0)
    first, second = step(whole, teacher, soft=0.7, rows=2), step(parts, teacher, soft=0.7, rows=1)
    assert first == pytest.approx(second, rel=1e-5) and first["kl"] > 0.1
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b)
