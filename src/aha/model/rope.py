"""Rotary position embedding (Su et al. 2021, section 3.4.2) in Hugging Face's layout: dimension i turns with i + H/2.

Axes: ``B`` sequences, ``T`` tokens, ``N`` heads, ``H`` head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

# What rotates one token: (cos, sin), each [T, 1, H] or [B, T, 1, H]. The first half of sin is negated.
Rotation = tuple[Tensor, Tensor]


def compute_rotation(
    positions: Tensor, *, head_dim: int, theta: float, dtype: torch.dtype = torch.float32
) -> Rotation:
    """Cosines and signed sines of ``positions`` (any shape ``[...]``): two tensors ``[..., 1, head_dim]`` in ``dtype``.

    Angles are computed in float32 and only the result is cast, as the published models do.
    """
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim
    angle = positions[..., None, None].float() * (1.0 / theta**exponent)
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def rotate(x_BTNH: Tensor, rotation: Rotation) -> Tensor:
    """``x`` turned by its position: ``[x1 cos - x2 sin, x2 cos + x1 sin]`` for the halves ``x1, x2`` of each head."""
    cos, sin = rotation
    return torch.addcmul(x_BTNH * cos, x_BTNH.roll(x_BTNH.shape[-1] // 2, -1), sin)


class RotationTable:
    """Rotations of positions 0, 1, 2, ...: computed once per dtype and device, extended when a longer one is asked for.

    It is no module and holds no buffers, so that casting a model to bfloat16 and back cannot coarsen the table.
    """

    def __init__(self, *, head_dim: int, theta: float) -> None:
        self.head_dim = head_dim
        self.theta = theta
        self._tables: dict[tuple[torch.dtype, torch.device], Rotation] = {}

    def first(self, length: int, *, dtype: torch.dtype, device: torch.device) -> Rotation:
        """The rotations of positions ``0 .. length-1``: two tensors ``[length, 1, head_dim]``."""
        table = self._tables.get((dtype, device))
        if table is None or table[0].shape[0] < length:
            rows = 1 << max(8, (length - 1).bit_length())
            with torch.inference_mode(False):  # a table first needed while evaluating must serve training too
                positions = torch.arange(rows, device=device)
                table = compute_rotation(positions, head_dim=self.head_dim, theta=self.theta, dtype=dtype)
            self._tables[dtype, device] = table
        return table[0][:length], table[1][:length]

    def at(self, positions_BT: Tensor, *, dtype: torch.dtype) -> Rotation:
        """The rotations of the given positions: two tensors ``[B, T, 1, head_dim]``."""
        longest = int(positions_BT.max()) + 1 if positions_BT.numel() else 0
        cos, sin = self.first(longest, dtype=dtype, device=positions_BT.device)
        return cos[positions_BT], sin[positions_BT]
