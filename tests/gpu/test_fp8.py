"""FP8 products on a GPU against the emulation, and their speed beside BF16 (printed, never judged).

    python -m pytest -s tests/gpu/test_fp8.py
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from aha.model.fp8 import Tiles, emulated_product, has_block_scaled_products, product, quantize
from aha.model.precision import fp8_linear, fp8_swiglu

if not torch.cuda.is_available():
    pytest.skip("no CUDA device: the products of FP8 are emulated here", allow_module_level=True)
if not has_block_scaled_products(torch.device("cuda", torch.cuda.current_device())):
    found = f"compute capability {torch.cuda.get_device_capability()}, CUDA {torch.version.cuda}"
    pytest.skip(
        f"products with block scales need compute capability 9.0 and CUDA 12.9, here: {found}", allow_module_level=True
    )


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).cuda()


def relative_error(found: Tensor, exact: Tensor) -> float:
    return float((found.detach().double() - exact.double()).norm() / exact.double().norm())


def on_cpu(tiles: Tiles) -> Tiles:
    return Tiles(tiles.values.cpu(), tiles.scales.cpu(), tiles.rows)


@pytest.mark.parametrize("rows_b", [1, 128])
@pytest.mark.parametrize(
    ("M", "N", "K"),
    [(128, 128, 128), (256, 512, 1024), (1, 128, 128), (77, 576, 7168), (4096, 200, 136), (13, 61, 700), (128, 96, 32)],
)
def test_products_are_the_emulations_but_for_the_order_of_sums(M: int, N: int, K: int, rows_b: int) -> None:
    """Whole and ragged tiles, 1 to 56 of them; the hardware keeps fewer bits within a tile (about 14)."""
    a, b = quantize(random(M, K), rows=1), quantize(random(N, K, seed=1), rows=rows_b)
    found = product(a, b)
    assert found.dtype == torch.float32 and found.shape == (M, N)
    exact = emulated_product(on_cpu(a), on_cpu(b)).cuda()
    assert relative_error(found, exact) < 1e-3


@pytest.mark.parametrize("rows", [1, 128])
def test_tiles_are_those_of_a_cpu_bit_for_bit(rows: int) -> None:
    x = random(130, 300) * torch.logspace(-4, 4, 300, device="cuda")
    here, there = quantize(x, rows=rows), quantize(x.cpu(), rows=rows)
    assert torch.equal(here.values.cpu().view(torch.uint8), there.values.view(torch.uint8))
    assert torch.equal(here.scales.cpu(), there.scales)


def test_the_emulation_has_the_same_bits_on_a_gpu() -> None:
    a, b = quantize(random(60, 300), rows=1), quantize(random(150, 300, seed=1), rows=128)
    assert torch.equal(emulated_product(a, b).cpu(), emulated_product(on_cpu(a), on_cpu(b)))


def test_what_is_not_finite_makes_its_row_nan() -> None:
    x = random(4, 256)
    x[1, 5] = torch.inf
    y = product(quantize(x, rows=1), quantize(random(128, 256, seed=1), rows=128))
    assert y[1].isnan().all() and y[[0, 2, 3]].isfinite().all()


def test_gradients_are_those_of_float32_but_for_rounding() -> None:
    x, w = random(600, 1024).requires_grad_(), random(384, 1024, seed=1).requires_grad_()
    grad = random(600, 384, seed=2)
    fp8_linear(x, w).backward(grad)
    assert x.grad is not None and w.grad is not None
    assert relative_error(x.grad, grad @ w.detach()) < 0.039
    assert relative_error(w.grad, grad.t() @ x.detach()) < 0.047
    gate, up, down = (random(600, 1024, seed=3), random(600, 1024, seed=4), random(256, 1024, seed=5))
    y = fp8_swiglu(gate, up, down)
    assert relative_error(y, (torch.nn.functional.silu(gate) * up) @ down.t()) < 0.039


def milliseconds(run: Callable[[], object]) -> float:
    for _ in range(3):
        run()
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    began.record()
    for _ in range(20):
        run()
    ended.record()
    torch.cuda.synchronize()
    return began.elapsed_time(ended) / 20


@pytest.mark.parametrize(("M", "N", "K"), [(4096, 7168, 16384), (4096, 4096, 7168), (64, 2112, 7168)])
def test_print_the_speed_beside_bf16(M: int, N: int, K: int) -> None:
    """DeepGEMM on an H800 reaches 1358 TFLOP/s at 4096 x 7168 x 16384 (its README, February 2025)."""
    x, w = random(M, K), random(N, K, seed=1)
    a, b = quantize(x, rows=1), quantize(w, rows=128)
    x16, w16 = x.bfloat16(), w.bfloat16()
    sides: dict[str, Callable[[], object]] = {
        "fp8 product": lambda: product(a, b),
        "fp8 with quantisation of the input": lambda: product(quantize(x16, rows=1), b),
        "bf16": lambda: x16 @ w16.t(),
    }
    for name, run in sides.items():
        taken = milliseconds(run)
        print(f"{M} x {N} x {K} {name}: {2 * M * N * K / taken / 1e9:.0f} TFLOP/s ({taken:.3f} ms)")
    assert relative_error(product(a, b), x @ w.t()) < 0.04
