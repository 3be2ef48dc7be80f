"""Attention whose query heads share key/value heads in groups (Ainslie et al. 2023).

Axes: ``B`` sequences, ``T`` tokens, ``D`` width, ``N`` query heads, ``K`` key/value heads, ``H`` head width.
"""

from __future__ import annotations

from torch import Tensor, nn

from aha.model.attention.plan import Attend
from aha.model.config import ModelConfig
from aha.model.norm import RMSNorm
from aha.model.product import linear
from aha.model.rope import Rotation


class GroupedQueryAttention(nn.Module):
    """Multi-head attention where ``K`` is ``N``, multi-query attention where it is 1. ``fused`` is as in
    ``DenseFeedForward``."""

    fused = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, N, K, H = config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.head_dim = H
        self.q_proj = nn.Linear(D, N * H, bias=config.qkv_bias)
        self.k_proj = nn.Linear(D, K * H, bias=config.qkv_bias)
        self.v_proj = nn.Linear(D, K * H, bias=config.qkv_bias)
        self.o_proj = nn.Linear(N * H, D, bias=config.o_bias)
        self.q_norm = RMSNorm(H, eps=config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(H, eps=config.rms_norm_eps) if config.qk_norm else None

    def forward(self, x_BTD: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        maps = self._map(x_BTD, self.q_proj, self.k_proj, self.v_proj)
        q_BTNH, k_BTKH, v_BTKH = (part.view(*part.shape[:-1], -1, self.head_dim) for part in maps)
        if self.q_norm is not None and self.k_norm is not None:
            q_BTNH, k_BTKH = self.q_norm(q_BTNH), self.k_norm(k_BTKH)
        read_BTNH = attend(q_BTNH, k_BTKH, v_BTKH, rotation)
        return self._map(read_BTNH.flatten(2), self.o_proj)[0]

    def _map(self, x: Tensor, *maps: nn.Module) -> tuple[Tensor, ...]:
        plain = [m for m in maps if type(m) is nn.Linear]
        return linear(x, *plain) if self.fused and len(plain) == len(maps) else tuple(m(x) for m in maps)
