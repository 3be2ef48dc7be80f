"""Rotary position embedding (Su et al. 2021, section 3.4.2) in Hugging Face's layout: dimension i turns with i + H/2.

Frequencies may be stretched for contexts longer than a model was first trained on: linearly, as Llama 3.1 does, or as
YaRN does (Peng et al. 2023, 2309.00071, section 3).

Axes: ``B`` sequences, ``T`` tokens, ``N`` heads, ``H`` head width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from aha.model import kernels
from aha.model.config import RopeScaling

# What rotates one token: (cos, sin), each [T, 1, H] or [B, T, 1, H]. The first half of sin is negated.
Rotation = tuple[Tensor, Tensor]


def compute_rotation(
    positions: Tensor,
    *,
    head_dim: int,
    theta: float,
    scaling: RopeScaling | None = None,
    dtype: torch.dtype = torch.float32,
) -> Rotation:
    """Cosines and signed sines of ``positions`` (any shape ``[...]``): two tensors ``[..., 1, head_dim]`` in ``dtype``.

    Angles are computed in float32 and only the result is cast, as the published models do.
    """
    frequency = compute_frequencies(head_dim, theta, scaling, device=positions.device)
    angle = positions[..., None, None].float() * frequency
    cos, sin = angle.cos(), angle.sin()
    if scaling is not None and scaling.rope_type == "yarn":
        factor = yarn_attention_factor(scaling)
        cos, sin = cos * factor, sin * factor
    cos, sin = cos.to(dtype), sin.to(dtype)
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def compute_frequencies(
    head_dim: int, theta: float, scaling: RopeScaling | None = None, *, device: torch.device | str = "cpu"
) -> Tensor:
    """Radians per position of each pair of dimensions, ``[head_dim / 2]``, fastest first."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    plain = 1.0 / theta**exponent
    if scaling is None:
        return plain
    slow = plain / scaling.factor
    if scaling.rope_type == "linear":
        return slow
    kept = _kept_llama3(plain, scaling) if scaling.rope_type == "llama3" else _kept_yarn(plain, theta, scaling)
    return slow * (1 - kept) + plain * kept


def _kept_llama3(plain: Tensor, scaling: RopeScaling) -> Tensor:
    """How far each frequency keeps its value: all the way if it turns ``high_freq_factor`` times or more in the
    original context, not at all up to ``low_freq_factor`` times, linearly in between."""
    assert scaling.low_freq_factor and scaling.high_freq_factor and scaling.original_max_position_embeddings
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    turns = scaling.original_max_position_embeddings * plain / (2 * math.pi)
    return ((turns - low) / (high - low)).clamp(0, 1)


def _kept_yarn(plain: Tensor, theta: float, scaling: RopeScaling) -> Tensor:
    """As for llama3, with ``beta_fast`` and ``beta_slow`` turns, but linear in the index of the dimension."""
    assert scaling.original_max_position_embeddings
    head_dim, original = 2 * len(plain), scaling.original_max_position_embeddings

    def index_of(turns: float) -> float:
        return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = index_of(scaling.beta_fast or 32), index_of(scaling.beta_slow or 1)
    if scaling.truncate is not False:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    place = torch.arange(len(plain), dtype=torch.float32, device=plain.device)
    return 1 - ((place - first) / ((last - first) or 0.001)).clamp(0, 1)


def yarn_attention_factor(scaling: RopeScaling) -> float:
    """What YaRN multiplies cosines and sines with, hence scores with its square."""
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return yarn_temperature(scaling.factor, scaling.mscale) / yarn_temperature(
            scaling.factor, scaling.mscale_all_dim
        )
    return yarn_temperature(scaling.factor, 1.0)


def yarn_temperature(factor: float, mscale: float) -> float:
    """``0.1 mscale ln(factor) + 1``: the square root of the inverse temperature of attention (section 3.4)."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def pairs_to_halves(x: Tensor) -> Tensor:
    """The last axis from DeepSeek's order, rotated pairs side by side, to halves: ``0 1 2 3 -> 0 2 1 3``."""
    return x.reshape(*x.shape[:-1], -1, 2).transpose(-1, -2).flatten(-2)


def rotate(x_BTNH: Tensor, rotation: Rotation) -> Tensor:
    """``x`` turned by its position: ``[x1 cos - x2 sin, x2 cos + x1 sin]`` for the halves ``x1, x2`` of each head."""
    cos, sin = rotation
    if kernels.usable(x_BTNH, cos) and cos.is_contiguous() and sin.is_contiguous():
        rotated: Tensor = _Rotate.apply(x_BTNH, cos, sin)  # type: ignore[no-untyped-call]
        return rotated
    return torch.addcmul(x_BTNH * cos, x_BTNH.roll(x_BTNH.shape[-1] // 2, -1), sin)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTNH: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.cos, ctx.sin = cos, sin
        return kernels.rotate_heads(x_BTNH.contiguous(), ctx.cos, ctx.sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTNH: Tensor) -> tuple[Tensor, None, None]:
        return kernels.rotate_heads(grad_BTNH.contiguous(), ctx.cos, ctx.sin, back=True), None, None


class RotationTable:
    """Rotations of positions 0, 1, 2, ...: computed once per dtype and device, extended when a longer one is asked for.

    It is no module and holds no buffers, so that casting a model to bfloat16 and back cannot coarsen the table.
    """

    def __init__(self, *, head_dim: int, theta: float, scaling: RopeScaling | None = None) -> None:
        self.head_dim = head_dim
        self.theta = theta
        self.scaling = scaling
        self._tables: dict[tuple[torch.dtype, torch.device], Rotation] = {}

    def first(self, length: int, *, dtype: torch.dtype, device: torch.device) -> Rotation:
        """The rotations of positions ``0 .. length-1``: two tensors ``[length, 1, head_dim]``."""
        table = self._tables.get((dtype, device))
        if table is None or table[0].shape[0] < length:
            rows = 1 << max(8, (length - 1).bit_length())
            with torch.inference_mode(False):  # a table first needed while evaluating must serve training too
                positions = torch.arange(rows, device=device)
                table = compute_rotation(
                    positions, head_dim=self.head_dim, theta=self.theta, scaling=self.scaling, dtype=dtype
                )
            self._tables[dtype, device] = table
        return table[0][:length], table[1][:length]

    def at(self, positions_BT: Tensor, *, dtype: torch.dtype) -> Rotation:
        """The rotations of the given positions: two tensors ``[B, T, 1, head_dim]``."""
        longest = int(positions_BT.max()) + 1 if positions_BT.numel() else 0
        cos, sin = self.first(longest, dtype=dtype, device=positions_BT.device)
        return cos[positions_BT], sin[positions_BT]
