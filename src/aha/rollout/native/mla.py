"""One layer's latent attention in the sampler: prompts are read in its expanded form, tokens decoded in the absorbed.

B rows, T prompt tokens, S cache columns, D width, N heads; H, R, W width of a head's unrotated key, rotated key and
value; C of the latent, X = C + R: what a token leaves in the cache (``model/attention/mla.py``). The projections of the
token to queries (or to their latent) and to the key/value latent are one matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from aha.model.attention.mla import LATENT_EPS, absorb_query, attend_to_latents, expand_read, score_gain
from aha.model.attention.plan import fused_causal
from aha.model.config import ModelConfig
from aha.rollout.native.matrix import floats
from aha.rollout.native.norm import Norm
from aha.rollout.native.prefixes import Lines, Past
from aha.rollout.native.source import Source, interleaved


class Latent:
    """A token leaves its normalised latent and the rotated key that all heads share: 1 part, 1 head, X numbers."""

    def __init__(self, config: ModelConfig, empty: Callable[..., Tensor]) -> None:
        D, N, C, R = config.hidden_size, config.num_attention_heads, config.kv_lora_rank, config.qk_rope_head_dim
        H, W, Q = config.qk_nope_head_dim, config.v_head_dim, config.q_lora_rank
        self._widths = (N, H, R, W, C)
        self._gain = score_gain(config)
        self._norm = Norm(D, config.rms_norm_eps, empty)
        self._first = Q or N * (H + R)  # numbers of a token's queries, or of their latent
        self._down = floats(self._first + C + R, D, empty)
        self._query_norm = Norm(Q, LATENT_EPS, empty) if Q else None
        self._query_up = floats(N * (H + R), Q, empty) if Q else None
        self._latent_norm = Norm(C, LATENT_EPS, empty)
        self._up = empty(N, H + W, C)
        self._out = floats(D, N * W, empty)
        order = torch.arange(R) if config.rope_interleave else interleaved(R)
        head = torch.cat((torch.arange(H), H + order))
        self._query_rows = (torch.arange(N)[:, None] * (H + R) + head).flatten()
        self._latent_rows = torch.cat((torch.arange(C), C + order))

    def copy_from(self, source: Source, at: str) -> None:
        """Overwrites every weight with those of the layer whose names start with ``at``."""
        own = at + "self_attn."
        with self._norm.rewrite() as plain:
            source.copy(at + "input_layernorm.weight", plain)
        with self._down.rewrite() as plain:
            first, last = plain[: self._first], plain[self._first :]
            if self._query_up is None:
                source.copy(own + "q_proj.weight", first, self._query_rows)
            else:
                source.copy(own + "q_a_proj.weight", first)
            source.copy(own + "kv_a_proj_with_mqa.weight", last, self._latent_rows)
        if self._query_up is not None and self._query_norm is not None:
            with self._query_norm.rewrite() as plain:
                source.copy(own + "q_a_layernorm.weight", plain)
            with self._query_up.rewrite() as plain:
                source.copy(own + "q_b_proj.weight", plain, self._query_rows)
        with self._latent_norm.rewrite() as plain:
            source.copy(own + "kv_a_layernorm.weight", plain)
        source.copy(own + "kv_b_proj.weight", self._up.flatten(0, 1))
        with self._out.rewrite() as plain:
            source.copy(own + "o_proj.weight", plain)

    def named(self, at: str) -> Iterator[tuple[str, Tensor]]:
        """Every weight under its published name, in its published layout, read back from the fused storage."""
        own = at + "self_attn."
        yield at + "input_layernorm.weight", self._norm.weight_D
        first, last = self._down.plain().tensor_split([self._first])
        rows = torch.argsort(self._query_rows)
        if self._query_up is not None and self._query_norm is not None:
            yield own + "q_a_proj.weight", first
            yield own + "q_a_layernorm.weight", self._query_norm.weight_D
            yield own + "q_b_proj.weight", self._query_up.plain()[rows]
        else:
            yield own + "q_proj.weight", first[rows]
        yield own + "kv_a_proj_with_mqa.weight", last[torch.argsort(self._latent_rows)]
        yield own + "kv_a_layernorm.weight", self._latent_norm.weight_D
        yield own + "kv_b_proj.weight", self._up.flatten(0, 1)
        yield own + "o_proj.weight", self._out.plain()

    def prefill(self, x: Tensor, rotation: Tensor, rows: int, past: Past | None = None) -> tuple[Tensor, Tensor]:
        """``x`` ``[B T, D]`` with what its tokens read added, and what they leave in the cache, ``[1, B, 1, T, X]``.
        Without a ``past`` the tokens are a text's first; latents of one are expanded again."""
        N, H, R, W, C = self._widths
        q, q_rope, entry = self._queries_and_entry(x, rotation)
        cached, mask = entry.view(1, rows, 1, -1, entry.shape[1]), None
        if past is not None:
            entry, mask = torch.cat((past.cache, cached), -2).flatten(0, 3), past.mask
        keys_values = F.linear(entry[:, :C], self._up.flatten(0, 1)).view(-1, N, H + W)
        k_rope = entry[:, None, C:].expand(-1, N, -1)
        query = torch.cat((q, q_rope), -1).mul_(self._gain).view(rows, -1, N, H + R)
        key = torch.cat((keys_values[..., :H], k_rope), -1).view(rows, -1, N, H + R)
        read = fused_causal(query, key, keys_values.view(rows, -1, N, H + W)[..., H:], mask_B1TS=mask)
        return self._out.add(x, read.reshape(len(x), N * W)), cached

    def decode(self, x_BD: Tensor, rotation_B: Tensor, lines: Lines, write_at: Tensor, mask: Tensor) -> Tensor:
        """One token of each row, or T side by side: their entries are written into the layer's cache at the places
        ``write_at`` ``[B T, 1, 1]``. ``mask`` ``[B, 1 or T N, S]`` hides the columns after it, and S are all."""
        N, H, R, W, C = self._widths
        B = len(mask)
        q, q_rope, entry = self._queries_and_entry(x_BD, rotation_B)
        lines.all.index_put_((write_at,), entry[:, None, None])
        query = torch.cat((absorb_query(q, self._up[:, :H]), q_rope), -1).view(B, -1, C + R)
        read = attend_to_latents(query, lines.parts[0], mask, latent=C, scale=(H + R) ** -0.5 * self._gain)
        read = expand_read(read.view(-1, N, C), self._up[:, H:])
        return self._out.add(x_BD, read.reshape(-1, N * W))

    def _queries_and_entry(self, x_BD: Tensor, rotation_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unrotated and rotated queries ``[B, N, H]`` and ``[B, N, R]``, and the cache entry ``[B, X]``."""
        N, H, R, _, C = self._widths
        query, latent, k_rope = torch.split(self._down.of(self._norm.of(x_BD)), [self._first, C, R], 1)
        if self._query_up is not None and self._query_norm is not None:
            query = self._query_up.of(self._query_norm.of(query))
        q, q_rope = torch.split(query.view(-1, N, H + R), [H, R], -1)
        entry = torch.cat((self._latent_norm.of(latent), _turn(k_rope[:, None], rotation_B)[:, 0]), 1)
        return q, _turn(q_rope, rotation_B), entry


def _turn(x_BNR: Tensor, rotation_B: Tensor) -> Tensor:
    # Not as complex numbers: a head's slice may begin at an odd place.
    cos, sin = rotation_B.real, rotation_B.imag
    even, odd = x_BNR[..., ::2].float(), x_BNR[..., 1::2].float()
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2).to(x_BNR.dtype)
