"""Multi-head latent attention (DeepSeek-V2, 2405.04434, section 2.1; DeepSeek-V3, 2412.19437, equations 1 to 11).

Keys and values of all heads are linear maps of one latent vector a token, and position enters by one rotary key that
all heads share, so that a cache holds C + R numbers a token and layer and not 2 N H. Two forms give the same numbers:
*expanded*, which makes every head's keys and values (training, reading a prompt), and *absorbed*, which moves the maps
over to queries and outputs (decoding; V2 appendix C): then all heads attend to the latents themselves, as in
multi-query attention.

Axes: ``B`` sequences, ``T`` tokens, ``S`` tokens in the cache, ``D`` width, ``N`` heads, ``H`` width of a head's
unrotated query and key, ``R`` of the rotated ones, ``W`` of its value, ``C`` of the latent.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from aha.model.attention.plan import Attend
from aha.model.config import ModelConfig
from aha.model.norm import RMSNorm
from aha.model.rope import Rotation, pairs_to_halves, rotate, yarn_temperature

LATENT_EPS = 1e-6  # of the norms of latents, whatever rms_norm_eps says: so do the published models


class MultiHeadLatentAttention(nn.Module):
    """The expanded form. ``q_lora_rank`` compresses queries too, which saves activations and nothing else."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, N, C, R = config.hidden_size, config.num_attention_heads, config.kv_lora_rank, config.qk_rope_head_dim
        H, W = config.qk_nope_head_dim, config.v_head_dim
        self.widths = (H, R, W, C)
        self.interleaved = config.rope_interleave
        self.gain = score_gain(config)
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(D, N * (H + R), bias=False)
        else:
            self.q_a_proj = nn.Linear(D, config.q_lora_rank, bias=False)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, eps=LATENT_EPS)
            self.q_b_proj = nn.Linear(config.q_lora_rank, N * (H + R), bias=False)
        self.compresses_queries = config.q_lora_rank is not None
        self.kv_a_proj_with_mqa = nn.Linear(D, C + R, bias=False)
        self.kv_a_layernorm = RMSNorm(C, eps=LATENT_EPS)
        self.kv_b_proj = nn.Linear(C, N * (H + W), bias=False)
        self.o_proj = nn.Linear(N * W, D, bias=False)

    def forward(self, x_BTD: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        H, R, W, C = self.widths
        if self.compresses_queries:
            query = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x_BTD)))
        else:
            query = self.q_proj(x_BTD)
        q_BTNH, q_rope_BTNR = query.unflatten(-1, (-1, H + R)).split((H, R), -1)
        latent_BTC, k_rope_BTR = self.kv_a_proj_with_mqa(x_BTD).split((C, R), -1)
        keys_values = self.kv_b_proj(self.kv_a_layernorm(latent_BTC)).unflatten(-1, (-1, H + W))
        k_BTNH, v_BTNW = keys_values.split((H, W), -1)
        q_rope_BTNR = self._rotate(q_rope_BTNR, rotation)
        k_rope_BTNR = self._rotate(k_rope_BTR[:, :, None], rotation).expand(*k_BTNH.shape[:3], R)
        q = torch.cat((q_BTNH, q_rope_BTNR), -1)
        read_BTNW = attend(q if self.gain == 1 else q * self.gain, torch.cat((k_BTNH, k_rope_BTNR), -1), v_BTNW)
        return cast(Tensor, self.o_proj(read_BTNW.flatten(2)))

    def _rotate(self, x_BTNR: Tensor, rotation: Rotation) -> Tensor:
        # The order of the rotated dimensions is free, as long as queries and keys share it.
        return rotate(pairs_to_halves(x_BTNR) if self.interleaved else x_BTNR, rotation)


def score_gain(config: ModelConfig) -> float:
    """What scores are multiplied with beside ``1 / sqrt(H + R)``: the square of YaRN's temperature for the whole head.

    1.87 in DeepSeek-V3 (factor 40, ``mscale_all_dim`` 1).
    """
    scaling = config.rope_scaling
    if scaling is None or not scaling.mscale_all_dim:
        return 1.0
    return yarn_temperature(scaling.factor, scaling.mscale_all_dim) ** 2


def split_up_projection(kv_b_weight: Tensor, num_heads: int, value_width: int) -> tuple[Tensor, Tensor]:
    """``kv_b_proj.weight`` ``[N (H + W), C]``: maps to each head's key ``[N, H, C]`` and to its value ``[N, W, C]``."""
    both = kv_b_weight.view(num_heads, -1, kv_b_weight.shape[1])
    return both[:, :-value_width], both[:, -value_width:]


def absorb_query(q_BNH: Tensor, key_map_NHC: Tensor) -> Tensor:
    """Queries ``[B, N, C]`` that give with a latent the score that ``q`` gives with the key made of it."""
    return torch.bmm(q_BNH.transpose(0, 1), key_map_NHC).transpose(0, 1)


def expand_read(read_BNC: Tensor, value_map_NWC: Tensor) -> Tensor:
    """Each head's output ``[B, N, W]`` from the weighted sum of latents that it has read."""
    return torch.bmm(read_BNC.transpose(0, 1), value_map_NWC.transpose(1, 2)).transpose(0, 1)


def attend_to_latents(q_BNX: Tensor, cache_BSX: Tensor, hidden_BNS: Tensor, *, latent: int, scale: float) -> Tensor:
    """What each head reads, ``[B, N, C]``, of a cache of C latent and R rotary numbers a token (``X = C + R``).

    ``hidden_BNS`` is 0 where a token may be seen, -inf elsewhere; of N 1 where all heads see the same. A sequence with
    several query tokens has the heads of one after those of the other. Softmax is in float32.
    """
    scores_BNS = torch.baddbmm(hidden_BNS, q_BNX, cache_BSX.transpose(1, 2), alpha=scale)
    weights_BNS = torch.softmax(scores_BNS, -1, dtype=torch.float32).to(cache_BSX.dtype)
    return torch.bmm(weights_BNS, cache_BSX[:, :, :latent])
