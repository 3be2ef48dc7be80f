from __future__ import annotations

import math

import torch

from aha.model.rope import RotationTable, compute_rotation, rotate, yarn_temperature


def test_one_pair_by_hand() -> None:
    # H = 2 has one pair and frequency 1: position p turns (x, y) by p radians.
    x = torch.tensor([3.0, 4.0], dtype=torch.float64).expand(1, 3, 1, 2)
    turned = rotate(x, compute_rotation(torch.tensor([0, 1, 5]), head_dim=2, theta=10000.0, dtype=torch.float64))
    for row, p in enumerate((0, 1, 5)):
        expected = [3 * math.cos(p) - 4 * math.sin(p), 4 * math.cos(p) + 3 * math.sin(p)]
        assert torch.allclose(turned[0, row, 0], torch.tensor(expected, dtype=torch.float64), atol=1e-6)


def test_frequencies_fall_geometrically_and_pair_i_with_i_plus_half() -> None:
    cos, sin = compute_rotation(torch.tensor([1]), head_dim=6, theta=1000.0)
    angles = torch.tensor([1.0, 1000.0 ** (-1 / 3), 1000.0 ** (-2 / 3)])
    assert torch.allclose(cos[0, 0], torch.cat((angles.cos(), angles.cos())))
    assert torch.allclose(sin[0, 0], torch.cat((-angles.sin(), angles.sin())))


def test_scores_depend_on_distance_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 16, generator=generator)
    table = RotationTable(head_dim=16, theta=10000.0)

    def score(query_at: int, key_at: int) -> float:
        turned_q = rotate(q, table.at(torch.tensor([[query_at]]), dtype=torch.float32))
        turned_k = rotate(k, table.at(torch.tensor([[key_at]]), dtype=torch.float32))
        return float((turned_q * turned_k).sum())

    assert abs(score(9, 4) - score(109, 104)) < 1e-4
    assert abs(score(9, 4) - score(9, 5)) > 1e-2


def test_table_grows_and_gathers() -> None:
    table = RotationTable(head_dim=8, theta=10000.0)
    cpu = torch.device("cpu")
    short = table.first(3, dtype=torch.float32, device=cpu)[0].clone()
    long = table.first(700, dtype=torch.float32, device=cpu)[0]
    assert long.shape == (700, 1, 8) and torch.equal(long[:3], short)
    positions = torch.tensor([[0, 1, 2, 0], [5, 699, 6, 1000]])
    expected = compute_rotation(positions, head_dim=8, theta=10000.0)
    assert all(torch.equal(a, b) for a, b in zip(table.at(positions, dtype=torch.float32), expected, strict=True))


def test_bfloat16_table_is_the_rounded_float32_one() -> None:
    table = RotationTable(head_dim=8, theta=10000.0)
    cpu = torch.device("cpu")
    coarse = table.first(50, dtype=torch.bfloat16, device=cpu)
    fine = table.first(50, dtype=torch.float32, device=cpu)
    assert torch.equal(coarse[1], fine[1].bfloat16())
    assert not torch.equal(coarse[1].float(), fine[1])


def test_a_table_first_needed_while_evaluating_serves_training() -> None:
    table = RotationTable(head_dim=8, theta=10000.0)
    with torch.inference_mode():
        table.first(5, dtype=torch.float64, device=torch.device("cpu"))
    x = torch.randn(1, 5, 2, 8, dtype=torch.float64, requires_grad=True)
    rotate(x, table.first(5, dtype=torch.float64, device=torch.device("cpu"))).sum().backward()
    assert x.grad is not None


def test_a_context_that_is_not_stretched_keeps_its_temperature() -> None:
    assert yarn_temperature(0.5, 1.0) == yarn_temperature(1.0, 1.0) == 1.0
    assert abs(yarn_temperature(40.0, 1.0) ** 2 - 1.87) < 5e-3  # DeepSeek-V3's
