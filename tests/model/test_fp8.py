"""FP8 tiles and products against a reference in plain Python, and against the errors DeepSeek-V3's format must have."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from aha.model.fp8 import (
    E4M3,
    E4M3_MAX,
    Tiles,
    dequantize,
    emulated_product,
    product,
    quantize,
    round_to_e5m6,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative_error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact.double()).norm() / exact.double().norm())


def minifloat(code: int) -> float:
    """The value of an E4M3 code below 0x7F, by its definition: 4 bits of exponent with bias 7, 3 of mantissa."""
    exponent, mantissa = code >> 3, code & 7
    return math.ldexp(mantissa, -9) if exponent == 0 else math.ldexp(8 + mantissa, exponent - 10)


POSITIVE = [minifloat(code) for code in range(0x7F)]


def nearest_e4m3(value: float) -> float:
    """The nearest E4M3 number, of two equally near the one with the even code."""
    distances = [abs(abs(value) - candidate) for candidate in POSITIVE]
    least = min(distances)
    codes = [code for code, distance in enumerate(distances) if distance == least]
    return math.copysign(POSITIVE[min(codes, key=lambda code: code & 1)], value)


def reference_tiles(x: Tensor, rows: int) -> tuple[list[list[float]], np.ndarray]:
    """Values and scales by loops over elements."""
    R, K = x.shape
    values = [[0.0] * K for _ in range(R)]
    scales = np.zeros((-(-R // rows), -(-K // 128)), dtype=np.float32)
    source = x.numpy()
    for i in range(scales.shape[0]):
        for g in range(scales.shape[1]):
            across, along = range(i * rows, min(R, (i + 1) * rows)), range(g * 128, min(K, (g + 1) * 128))
            places = [(r, k) for r in across for k in along]
            amax = max(abs(source[place]) for place in places)
            scales[i, g] = np.float32(amax) / np.float32(448)
            for r, k in places:
                values[r][k] = nearest_e4m3(float(source[r, k] / scales[i, g]))
    return values, scales


@pytest.mark.parametrize(("shape", "rows"), [((3, 261), 1), ((130, 140), 128)])
def test_tiles_are_those_of_the_scalar_reference_bit_for_bit(shape: tuple[int, int], rows: int) -> None:
    x = random(*shape) * torch.logspace(-4, 4, shape[1])  # every exponent of the format occurs
    tiles = quantize(x, rows=rows)
    values, scales = reference_tiles(x, rows)
    assert tiles.values.dtype == E4M3
    assert torch.equal(tiles.values.double(), torch.tensor(values, dtype=torch.float64))
    assert np.array_equal(tiles.scales.numpy(), scales)
    subnormal = (tiles.values.float() != 0) & (tiles.values.float().abs() < 2**-6)
    assert subnormal.any() and (tiles.values.float().abs() == E4M3_MAX).any()


@pytest.mark.parametrize("rows_b", [1, 128])
def test_product_is_that_of_the_scalar_reference_bit_for_bit(rows_b: int) -> None:
    """128 products summed exactly, rounded to float32 once, two scales, a float32 sum: with a ragged last tile."""
    a = quantize(random(3, 300, seed=1) * torch.logspace(-3, 3, 300), rows=1)
    b = quantize(random(131, 300, seed=2), rows=rows_b)
    found = emulated_product(a, b)
    a_MK, b_NK = a.values.double().tolist(), b.values.double().tolist()
    scale_a, scale_b = a.scales.numpy(), b.scales.numpy()
    for m in range(3):
        for n in range(131):
            total = np.float32(0)
            for g in range(3):
                part = slice(g * 128, (g + 1) * 128)
                chunk = math.fsum(x * y for x, y in zip(a_MK[m][part], b_NK[n][part], strict=True))
                total += np.float32(chunk) * scale_a[m, g] * scale_b[n // rows_b, g]
            assert float(found[m, n]) == float(total), (m, n)


def test_a_row_of_a_product_does_not_depend_on_the_rows_beside_it() -> None:
    a, b = quantize(random(64, 512), rows=1), quantize(random(96, 512, seed=1), rows=128)
    whole = product(a, b)
    alone = torch.cat([product(Tiles(a.values[i : i + 1], a.scales[i : i + 1], 1), b) for i in range(64)])
    assert torch.equal(whole, alone)


@pytest.mark.parametrize("power_of_two", [False, True])
def test_errors_are_those_of_the_format(power_of_two: bool) -> None:
    """Gaussian data: 2.6 % of rounding each operand, 3.7 % of the product; the 1 - similarity of DeepGEMM is 7e-4."""
    x, w = random(128, 4096), random(256, 4096, seed=1)
    a, b = (quantize(t, rows=rows, power_of_two=power_of_two) for t, rows in ((x, 1), (w, 128)))
    exact = x.double() @ w.double().t()
    found = product(a, b).double()
    assert relative_error(dequantize(a), x) == pytest.approx(0.0265 if power_of_two else 0.0257, rel=0.02)
    assert relative_error(dequantize(b), w) == pytest.approx(0.0265, rel=0.02)
    assert relative_error(found, exact) == pytest.approx(0.0370, rel=0.04)
    assert 1 - 2 * (found * exact).sum() / (found.square() + exact.square()).sum() < 8e-4


def test_tiles_keep_an_outlier_from_drowning_the_rest() -> None:
    """One scale for the tensor underflows beside a channel of 1e5; a tile of 128 loses its own neighbours at most."""
    x = random(64, 4096)
    x[:, 0] *= 1e5
    scale = x.abs().amax() / E4M3_MAX
    whole = (x / scale).to(E4M3).float() * scale
    tiled = dequantize(quantize(x, rows=1))
    assert relative_error(whole[:, 128:], x[:, 128:]) > 0.2
    assert relative_error(tiled[:, 128:], x[:, 128:]) < 0.027


def test_blocks_are_transposed_without_a_second_rounding() -> None:
    blocks = quantize(random(150, 300), rows=128)
    assert torch.equal(dequantize(blocks.transposed()), dequantize(blocks).t())


def test_powers_of_two_are_powers_of_two_and_tile_again_without_a_second_rounding() -> None:
    x = random(256, 256)
    once = quantize(x, rows=1, power_of_two=True)
    mantissa, _ = torch.frexp(once.scales)
    assert (mantissa == 0.5).all()
    assert (once.scales >= quantize(x, rows=1).scales).all() and (once.scales < 2 * quantize(x, rows=1).scales).all()
    exact = dequantize(once)
    kept, lost = (
        relative_error(dequantize(quantize(dequantize(t).t().contiguous(), rows=1, power_of_two=p)).t(), dequantize(t))
        for t, p in ((once, True), (quantize(x, rows=1), False))
    )
    assert kept < 1e-4 < 0.02 < lost
    assert torch.equal(dequantize(quantize(exact, rows=1, power_of_two=True)), exact)


def test_scale_of_an_exact_power_of_two_stays() -> None:
    tiles = quantize(torch.full((1, 128), 448.0 * 2**-20), rows=1, power_of_two=True)
    assert tiles.scales.item() == 2**-20 and (tiles.values.float() == 448).all()


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
def test_zeros_and_extreme_sizes_survive(size: float) -> None:
    x = random(2, 200) * size
    back = dequantize(quantize(x, rows=1))
    assert back.isfinite().all()
    assert torch.equal(back, x) if size == 0 else relative_error(back / size, x / size) < 0.03


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_makes_its_tile_nan(bad: float) -> None:
    x = random(3, 256)
    x[1, 5] = bad
    back = dequantize(quantize(x, rows=1))
    assert back[1, :128].isnan().all()
    assert back[[0, 2]].isfinite().all() and back[1, 128:].isfinite().all()
    assert product(quantize(x, rows=1), quantize(random(4, 256), rows=128))[1].isnan().all()


def test_e5m6_is_the_grid_of_six_bits() -> None:
    x = torch.tensor([[65024.0, 1 + 1 / 64, 1 + 1 / 128, 1 + 3 / 128, 2**-20, 3 * 2**-21, -1.0, 0.0]])
    # The largest value is E5M6's own largest, so the scale is 1: ties go to even, below 2^-14 the grid is 2^-20.
    expected = [65024.0, 1 + 1 / 64, 1.0, 1 + 2 / 64, 2**-20, 2 * 2**-20, -1.0, 0.0]
    assert round_to_e5m6(x).tolist() == [expected]
    x = random(16, 300)
    error = relative_error(round_to_e5m6(x), x)
    assert 0.002 < error < 0.004  # an eighth of E4M3's 2.6 %
    once = round_to_e5m6(x)
    assert torch.equal(round_to_e5m6(once.float()), once)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("power_of_two", [False, True])
def test_a_tile_with_a_number_that_is_none_is_none_as_a_whole(bad: float, power_of_two: bool) -> None:
    x = torch.ones(2, 256)
    x[0, 130] = bad
    found = dequantize(quantize(x, rows=1, power_of_two=power_of_two))
    assert found[0, 128:].isnan().all() and found[0, :128].eq(1).all() and found[1].eq(1).all()
