"""The dense feed-forward. Axes: ``B`` sequences, ``T`` tokens, ``D`` width, ``F`` feed-forward width."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn


class DenseFeedForward(nn.Module):
    """SwiGLU (Shazeer 2020, section 2): ``down(silu(gate x) * up x)``."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return cast(Tensor, self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD)))
