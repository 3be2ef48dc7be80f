"""One layer's grouped-query attention in the sampler: weights fused for decoding, and what is computed with them.

B rows, T prompt tokens, S cache columns, D width, N query heads, K key/value heads, H head width. Query, key and value
projections are one matrix. In the query and key heads the two halves that rotation pairs are interleaved, so that
rotating is one complex product; attention does not see a permutation that queries and keys share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from aha.model.config import ModelConfig
from aha.rollout.native.matrix import Make
from aha.rollout.native.norm import Norm
from aha.rollout.native.prefixes import Lines, Past
from aha.rollout.native.source import Source, interleaved


class GroupedQuery:
    """A token leaves keys and values of K heads in the cache: 2 parts, K heads, H numbers."""

    def __init__(self, config: ModelConfig, empty: Callable[..., Tensor], matrix: Make) -> None:
        D, H = config.hidden_size, config.head_dim
        N, K = config.num_attention_heads, config.num_key_value_heads
        self._eps, self._heads = config.rms_norm_eps, (N, K, H)
        self._norm = Norm(D, config.rms_norm_eps, empty)
        self._qkv = matrix((N + 2 * K) * H, D, width=H)
        self._qkv_bias = empty((N + 2 * K) * H) if config.qkv_bias else None
        self._qk_norm = empty(N + K, H) if config.qk_norm else None  # the query norm's weight N times, the key's K
        self._out = matrix(D, N * H)
        self._out_bias = empty(D) if config.o_bias else None
        self._interleave = interleaved(H)
        self._halves = torch.argsort(self._interleave)

    def copy_from(self, source: Source, at: str) -> None:
        """Overwrites every weight with those of the layer whose names start with ``at``."""
        N, K, H = self._heads
        parts = [N * H, K * H, K * H]
        with self._norm.rewrite() as plain:
            source.copy(at + "input_layernorm.weight", plain)
        with self._qkv.rewrite() as plain:
            for part, heads, into in zip("qkv", (N, K, K), torch.split(plain, parts), strict=True):
                source.copy(f"{at}self_attn.{part}_proj.weight", into, self._rows(heads, interleaved=part != "v"))
        if self._qkv_bias is not None:
            for part, heads, into in zip("qkv", (N, K, K), torch.split(self._qkv_bias, parts), strict=True):
                name = f"{at}self_attn.{part}_proj.bias"
                source.copy(name, into, self._rows(heads, interleaved=part != "v"))
        if self._qk_norm is not None:
            for part, into in zip("qk", torch.split(self._qk_norm, [N, K]), strict=True):
                source.copy(f"{at}self_attn.{part}_norm.weight", into[0], self._interleave)
                into.copy_(into[0].clone().expand_as(into))
        with self._out.rewrite() as plain:
            source.copy(at + "self_attn.o_proj.weight", plain)
        if self._out_bias is not None:
            source.copy(at + "self_attn.o_proj.bias", self._out_bias)

    def named(self, at: str) -> Iterator[tuple[str, Tensor]]:
        """Every weight under its published name, in its published layout, read back from the fused storage."""
        N, K, H = self._heads
        parts = [N * H, K * H, K * H]
        yield at + "input_layernorm.weight", self._norm.weight_D
        for suffix, whole in self._qkv.read():
            for part, heads, fused in zip("qkv", (N, K, K), torch.split(whole, parts), strict=True):
                yield f"{at}self_attn.{part}_proj.weight{suffix}", fused[self._rows(heads, halved=part != "v")]
        if self._qkv_bias is not None:
            for part, heads, fused in zip("qkv", (N, K, K), torch.split(self._qkv_bias, parts), strict=True):
                yield f"{at}self_attn.{part}_proj.bias", fused[self._rows(heads, halved=part != "v")]
        if self._qk_norm is not None:
            for part, fused in zip("qk", torch.split(self._qk_norm, [N, K]), strict=True):
                yield f"{at}self_attn.{part}_norm.weight", fused[0][self._halves]
        for suffix, whole in self._out.read():
            yield f"{at}self_attn.o_proj.weight{suffix}", whole
        if self._out_bias is not None:
            yield at + "self_attn.o_proj.bias", self._out_bias

    def prefill(self, x: Tensor, rotation: Tensor, rows: int, past: Past | None = None) -> tuple[Tensor, Tensor]:
        """``x`` ``[B T, D]`` with what its tokens read added, and their keys and values ``[2, B, K, T, H]``. Without a
        ``past`` the tokens are a text's first."""
        N, K, H = self._heads
        heads = self._queries_keys_values(x, rotation).view(rows, -1, N + 2 * K, H).transpose(1, 2)
        queries, keys, values = torch.split(heads, [N, K, K], 1)
        cached, mask = torch.stack((keys, values)), None
        if past is not None:
            (keys, values), mask = torch.cat((past.cache, cached), -2), past.mask
        read = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=N != K
        )
        return self._add_out(x, read.transpose(1, 2).reshape(len(x), N * H)), cached

    def decode(self, x_BD: Tensor, rotation_B: Tensor, lines: Lines, write_at: Tensor, mask: Tensor) -> Tensor:
        """One token of each row, or T side by side: their keys and values are written into the layer's cache at the
        places ``write_at``; ``mask`` ``[B K, 1 or T N / K, S]`` hides the columns after each, and S are all."""
        N, K, H = self._heads
        B = len(mask) // K
        queries, keys_values = torch.split(self._queries_keys_values(x_BD, rotation_B), [N, 2 * K], 1)
        lines.all.index_put_((write_at,), keys_values)
        queries = queries.reshape(B, -1, K, N // K, H).transpose(1, 2).reshape(B * K, -1, H)
        keys, values = lines.parts
        scores = torch.add(mask, torch.bmm(queries, keys.transpose(1, 2)), alpha=H**-0.5)
        read = torch.bmm(torch.softmax(scores, -1), values).view(B, K, -1, N // K, H).transpose(1, 2)
        return self._add_out(x_BD, read.reshape(-1, N * H))

    def _queries_keys_values(self, x_BD: Tensor, rotation_B: Tensor) -> Tensor:
        """``[B, N + 2K, H]``: queries and keys normalised where the architecture does, and rotated."""
        N, K, H = self._heads
        heads = self._qkv.parts(self._norm.of(x_BD), self._qkv_bias)
        rotated = heads[:, : N + K]
        if self._qk_norm is not None:
            rotated.copy_(F.rms_norm(rotated, (H,), None, self._eps).mul_(self._qk_norm))
        exact = rotated.float()  # in float32 the same numbers, not a copy
        exact.view(torch.complex64).mul_(rotation_B)
        if exact is not rotated:
            rotated.copy_(exact)
        return heads

    def _add_out(self, x_BD: Tensor, read: Tensor) -> Tensor:
        x_BD = self._out.add(x_BD, read)
        return x_BD if self._out_bias is None else x_BD.add_(self._out_bias)

    def _rows(self, heads: int, *, interleaved: bool = False, halved: bool = False) -> Tensor:
        order = self._interleave if interleaved else self._halves if halved else torch.arange(len(self._halves))
        return (torch.arange(heads)[:, None] * len(order) + order).flatten()
