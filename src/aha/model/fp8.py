"""FP8 matrix products the DeepSeek-V3 way: E4M3 for every operand, a scale for each small tile, FP32 between tiles.

Source: the DeepSeek-V3 report (arXiv 2412.19437), sections 3.3.1 and 3.3.2, and the published kernels of its inference
code. Axes: ``M`` rows of the product, ``N`` its columns, ``K`` what is summed over; a last tile may be ragged.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 128
"""Channels that share a scale, and products that are summed before FP32 takes over (V3 section 3.3.2, N_C)."""
E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448.0


class Tiles(NamedTuple):
    """A matrix ``[R, K]`` in FP8: ``values * scales``, each scale for ``rows`` x 128 values.

    ``values`` is float8_e4m3fn ``[R, K]``, ``scales`` float32 ``[ceil(R / rows), ceil(K / 128)]``; ``rows`` is 1 for
    activations and gradients, 128 for weights.
    """

    values: Tensor
    scales: Tensor
    rows: int

    def transposed(self) -> Tiles:
        """The transposed matrix; only square blocks stay blocks, so ``rows`` must be 128."""
        assert self.rows == TILE, "1 x 128 tiles transposed are 128 x 1: quantise the transposed matrix instead"
        return Tiles(self.values.t().contiguous(), self.scales.t().contiguous(), self.rows)


def quantize(x: Tensor, *, rows: int, power_of_two: bool = False) -> Tiles:
    """``x``, ``[R, K]``, in tiles of ``rows`` x 128 (``rows`` 1 or 128), each scaled so that its largest value is 448.

    The scale is that of the present values (online; no history). ``power_of_two`` rounds it up to one, so that the
    same values can be tiled again along the other axis without a second rounding (V3 section 3.3.3). A tile of zeros
    stays zeros. A tile that holds an infinity or NaN becomes NaN as a whole, where a plain cast would turn an infinity
    into 448 and hide it. The published inference kernel holds amax at 1e-4 or more; gradients are smaller than that, so
    here the floor is the smallest normal scale.
    """
    scales = _amax(x.float(), rows).div_(E4M3_MAX).clamp_(min=torch.finfo(torch.float32).tiny)
    if power_of_two:
        scales = _power_of_two_above(scales)
    values = (x / _spread(scales, rows, x.shape)).clamp_(-E4M3_MAX, E4M3_MAX).to(E4M3)
    return Tiles(values, scales, rows)


def dequantize(tiles: Tiles) -> Tensor:
    """float32 ``[R, K]``: values times their tile's scale."""
    return _decode(tiles.values, torch.float32).mul_(_spread(tiles.scales, tiles.rows, tiles.values.shape))


def product(a: Tiles, b: Tiles) -> Tensor:
    """``a @ b.T`` in float32, ``[M, N]``, of ``a`` in 1 x 128 tiles ``[M, K]`` and ``b`` in either kind ``[N, K]``.

    ``sum over g of (A_g B_g^T) * scale_a[m, g] * scale_b[n, g]``: 128 products are summed, then scaled and added up in
    float32 (V3 section 3.3.2). A GPU with block-scaled matrix products (compute capability 9.0) runs them; elsewhere
    ``emulated_product`` does.
    """
    assert a.rows == 1 and a.values.shape[1] == b.values.shape[1], (a.rows, a.values.shape, b.values.shape)
    if a.values.is_cuda and has_block_scaled_products(a.values.device):
        return _device_product(a, b)
    return emulated_product(a, b)


def emulated_product(a: Tiles, b: Tiles) -> Tensor:
    """``product`` on any device, with the same bits on all of them.

    Products of E4M3 values are multiples of 2^-18 below 2^18, so that float64 holds the sum of 128 exactly, whatever
    the order; it is rounded to float32 once, multiplied by the two scales and added. The bits therefore depend on
    neither threads, nor batch, nor the library that multiplies.
    """
    M, N = len(a.values), len(b.values)
    a_MK, b_NK = _decode(a.values, torch.float64), _decode(b.values, torch.float64)
    scale_b_NG = b.scales.repeat_interleave(b.rows, 0)[:N]
    total_MN = torch.zeros(M, N, dtype=torch.float32, device=a_MK.device)
    for g in range(a.scales.shape[1]):
        chunk = slice(g * TILE, (g + 1) * TILE)
        partial_MN = (a_MK[:, chunk] @ b_NK[:, chunk].t()).float()
        total_MN += partial_MN.mul_(a.scales[:, g, None]).mul_(scale_b_NG[:, g])
    return total_MN


def round_to_e5m6(x: Tensor) -> Tensor:
    """``x``, ``[R, K]``, rounded to E5M6 (1 + 5 + 6 bits) with a power-of-two scale for each 1 x 128 tile; bfloat16.

    The format in which V3 keeps the input of the linear map after attention for the backward pass, which attention's
    own backward needs precisely (section 3.3.3). A power of two times six bits fits bfloat16, which stands in for it.
    """
    e5m6_max = (2 - 2**-6) * 2.0**15
    wide = x.float()
    scales = _amax(wide, 1).div_(e5m6_max).clamp_(min=torch.finfo(torch.float32).tiny)
    spread = _spread(_power_of_two_above(scales), 1, x.shape)
    scaled = wide / spread
    exponent = torch.frexp(scaled).exponent.clamp_(min=-13)  # frexp's mantissa is in [1/2, 1): 2^-14 has exponent -13
    step = torch.ldexp(torch.ones_like(scaled), exponent - 7)
    return (scaled / step).round_().mul_(step).mul_(spread).to(torch.bfloat16)


@cache
def has_block_scaled_products(device: torch.device) -> bool:
    """Whether cuBLAS multiplies 1 x 128 tiles with float32 scales here: compute capability 9.0 and CUDA 12.9."""
    version = tuple(map(int, (torch.version.cuda or "0").split(".")))
    return version >= (12, 9) and torch.cuda.get_device_capability(device) == (9, 0)


def _device_product(a: Tiles, b: Tiles) -> Tensor:
    """torch's product wants whole tiles, scales that lie column by column, and those of blocks padded to four."""
    M, N = len(a.values), len(b.values)
    wide_a, wide_b = _pad_values(a.values, 16), _pad_values(b.values, TILE)
    scale_a = F.pad(a.scales, (0, 0, 0, wide_a.shape[0] - M), value=1.0).t().contiguous().t()
    if b.rows == 1:
        recipe_b = F.ScalingType.BlockWise1x128
        scale_b = F.pad(b.scales, (0, 0, 0, wide_b.shape[0] - N), value=1.0).t().contiguous().t()
    else:
        recipe_b = F.ScalingType.BlockWise128x128
        scale_b = F.pad(b.scales, (0, -b.scales.shape[1] % 4), value=1.0).contiguous().t()
    found = F.scaled_mm(
        wide_a,
        wide_b.t(),
        scale_a,
        F.ScalingType.BlockWise1x128,
        scale_b,
        recipe_b,
        output_dtype=torch.float32,
    )
    return found[:M, :N]


def _pad_values(values: Tensor, rows: int) -> Tensor:
    """Zeros after the last row, up to a multiple of ``rows``, and after the last channel, up to whole tiles."""
    short_rows, short_channels = -values.shape[0] % rows, -values.shape[1] % TILE
    if not (short_rows or short_channels):
        return values.contiguous()
    return F.pad(values.view(torch.uint8), (0, short_channels, 0, short_rows)).view(E4M3)


def _amax(x: Tensor, rows: int) -> Tensor:
    """The largest absolute value of each tile, NaN where one is."""
    R, K = x.shape
    padded = F.pad(x, (0, -K % TILE, 0, -R % rows))
    return padded.reshape(-(-R // rows), rows, -(-K // TILE), TILE).abs().amax((1, 3))


def _power_of_two_above(scales: Tensor) -> Tensor:
    mantissa, exponent = torch.frexp(scales)
    rounded = torch.ldexp(torch.ones_like(scales), exponent - (mantissa == 0.5).int())
    return torch.where(scales.isfinite(), rounded, scales)


def _spread(scales: Tensor, rows: int, shape: torch.Size) -> Tensor:
    """Each tile's scale at each of its values."""
    R, K = shape
    return scales.repeat_interleave(TILE, 1)[:, :K].repeat_interleave(rows, 0)[:R]


def _decode(values: Tensor, dtype: torch.dtype) -> Tensor:
    """FP8 to ``dtype`` by a table of all 256 values, which on a CPU is ten times as fast as the cast."""
    if values.is_cuda:
        return values.to(dtype)
    table = torch.arange(256, dtype=torch.uint8).view(E4M3).to(dtype)
    return table.index_select(0, values.contiguous().view(torch.uint8).int().flatten()).view(values.shape)
