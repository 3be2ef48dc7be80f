"""A latent-attention cache in 8 bits, in FlashMLA's layout: 656 bytes a token and layer of DeepSeek-V3 and not 1,152.

A token's entry is C latent numbers and R of the rotated key. The latent is kept as E4M3 with one float32 scale for
every 128 numbers, the rotated key in bfloat16: C + 4 ceil(C / 128) + 2 R bytes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 128
LARGEST = 448.0  # of E4M3; a cast of more gives NaN


def entry_bytes(latent: int, rotary: int) -> int:
    """Bytes of one token in one layer."""
    return latent + 4 * -(-latent // TILE) + 2 * rotary


def pack_entries(entries: Tensor, *, latent: int) -> Tensor:
    """``[..., C + R]`` of any float type as ``[..., entry_bytes]`` of uint8: latent, scales, rotated key.

    The scale of a tile is its largest magnitude divided by 448, so that nothing overflows.
    """
    values, rotary = entries[..., :latent].float(), entries[..., latent:]
    tiles = F.pad(values, (0, -latent % TILE)).view(*values.shape[:-1], -1, TILE)
    scales = tiles.abs().amax(-1) / LARGEST
    scales = torch.where(scales > 0, scales, 1.0)
    small = (tiles / scales[..., None]).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
    small = small.view(torch.uint8).flatten(-2)[..., :latent]
    key = rotary.to(torch.bfloat16).contiguous().view(torch.uint8)
    return torch.cat((small, scales.contiguous().view(torch.uint8), key), -1)


def unpack_entries(packed: Tensor, *, latent: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """What ``pack_entries`` packed, ``[..., C + R]`` in ``dtype``."""
    num_tiles = -(-latent // TILE)
    small, scales, key = torch.split(
        packed, [latent, 4 * num_tiles, packed.shape[-1] - latent - 4 * num_tiles], -1
    )
    values = small.contiguous().view(torch.float8_e4m3fn).float()
    scale = scales.contiguous().view(torch.float32).repeat_interleave(TILE, -1)[..., :latent]
    return torch.cat(((values * scale).to(dtype), key.contiguous().view(torch.bfloat16).to(dtype)), -1)
