"""One layer's grouped-query attention in the sampler: weights fused for decoding, and what is computed with them.

B rows, T prompt tokens, S cache columns, D width, N query heads, K key/value heads in groups of G = N / K queries, H
head width. Query, key and value projections are one matrix: the first query of each of the K groups, the second of each
and so on, keys, values, so that K heads are always side by side. In the query and key heads the two halves that
rotation pairs are interleaved, so that rotating is one complex product; attention does not see a permutation that
queries and keys share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from aha.model.config import ModelConfig
from aha.rollout.native.matrix import Make, Panels
from aha.rollout.native.norm import Norm
from aha.rollout.native.prefixes import Lines, Past
from aha.rollout.native.source import Source, interleaved
from aha.rollout.native.workspace import Workspace


class GroupedQuery:
    """A token leaves keys and values of K heads in the cache: 2 parts, K heads, H numbers."""

    def __init__(self, config: ModelConfig, empty: Callable[..., Tensor], matrix: Make) -> None:
        D, H = config.hidden_size, config.head_dim
        N, K = config.num_attention_heads, config.num_key_value_heads
        self._eps, self._heads = config.rms_norm_eps, (N, K, H)
        self._norm = Norm(D, config.rms_norm_eps, empty)
        self._qkv = matrix((N + 2 * K) * H, D, width=K * H)  # a panel has K heads of a row, as the cache does
        self._qkv_bias = empty((N + 2 * K) * H) if config.qkv_bias else None
        self._bias_P1W = self._qkv_bias.view(-1, 1, K * H) if self._qkv_bias is not None else None
        self._qk_norm = empty(N // K + 1, 1, H) if config.qk_norm else None  # the queries' G times, the keys'
        self._out = matrix(D, N * H)
        self._out_bias = empty(D) if config.o_bias else None
        self._interleave = interleaved(H)
        self._halves = torch.argsort(self._interleave)
        rows_NH, by_group = torch.arange(N * H).view(N, H), torch.arange(N).view(K, -1).t().flatten()
        turned_NH = rows_NH[:, self._interleave]
        # Which published rows stand where in queries, keys and values.
        self._rows = turned_NH[by_group].flatten(), turned_NH[:K].flatten(), rows_NH[:K].flatten()

    def copy_from(self, source: Source, at: str) -> None:
        """Overwrites every weight with those of the layer whose names start with ``at``."""
        N, K, H = self._heads
        parts = [N * H, K * H, K * H]
        with self._norm.rewrite() as plain:
            source.copy(at + "input_layernorm.weight", plain)
        with self._qkv.rewrite() as plain:
            for part, rows, into in zip("qkv", self._rows, torch.split(plain, parts), strict=True):
                source.copy(f"{at}self_attn.{part}_proj.weight", into, rows)
        if self._qkv_bias is not None:
            for part, rows, into in zip("qkv", self._rows, torch.split(self._qkv_bias, parts), strict=True):
                source.copy(f"{at}self_attn.{part}_proj.bias", into, rows)
        if self._qk_norm is not None:
            for part, into in zip("qk", torch.split(self._qk_norm, [N // K, 1]), strict=True):
                source.copy(f"{at}self_attn.{part}_norm.weight", into[0, 0], self._interleave)
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
            for part, rows, fused in zip("qkv", self._rows, torch.split(whole, parts), strict=True):
                yield f"{at}self_attn.{part}_proj.weight{suffix}", fused[torch.argsort(rows)]
        if self._qkv_bias is not None:
            for part, rows, fused in zip("qkv", self._rows, torch.split(self._qkv_bias, parts), strict=True):
                yield f"{at}self_attn.{part}_proj.bias", fused[torch.argsort(rows)]
        if self._qk_norm is not None:
            for part, fused in zip("qk", torch.split(self._qk_norm, [N // K, 1]), strict=True):
                yield f"{at}self_attn.{part}_norm.weight", fused[0, 0, self._halves]
        for suffix, whole in self._out.read():
            yield f"{at}self_attn.o_proj.weight{suffix}", whole
        if self._out_bias is not None:
            yield at + "self_attn.o_proj.bias", self._out_bias

    def prefill(self, x: Tensor, rotation: Tensor, rows: int, past: Past | None = None) -> tuple[Tensor, Tensor]:
        """``x`` ``[B T, D]`` with what its tokens read added, and their keys and values ``[2, B, K, T, H]``. Without a
        ``past`` the tokens are a text's first."""
        N, K, H = self._heads
        queries, keys_values = torch.split(self._queries_keys_values(x, rotation), [N // K, 2], 1)
        queries = queries.view(rows, -1, N // K, K, H).permute(0, 3, 2, 1, 4).reshape(rows, N, -1, H)
        cached, mask = keys_values.view(rows, -1, 2, K, H).permute(2, 0, 3, 1, 4).contiguous(), None
        keys, values = cached
        if past is not None:
            (keys, values), mask = torch.cat((past.cache, cached), -2), past.mask
        read = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=N != K
        )
        return self._add_out(x, read.transpose(1, 2).reshape(len(x), N * H)), cached

    def decode(self, x_BD: Tensor, rotation_B: Tensor, lines: Lines, write_at: Tensor, mask: Tensor) -> Tensor:
        """One token of each row, or T side by side: their keys and values are written into the layer's cache at the
        places ``write_at`` ``[B T, 2, K]``; ``mask`` ``[B K, 1 or T G, S]`` hides the columns after each, and S are
        all."""
        N, K, H = self._heads
        B = len(mask) // K
        queries, keys_values = torch.split(self._queries_keys_values(x_BD, rotation_B), [N // K, 2], 1)
        lines.all.index_put_((write_at,), keys_values)
        queries = queries.view(B, -1, N // K, K, H).permute(0, 3, 1, 2, 4).reshape(B * K, -1, H)
        scores = torch.add(mask, torch.bmm(queries, lines.across), alpha=H**-0.5)
        read = torch.bmm(torch.softmax(scores, -1), lines.parts[1]).view(B, K, -1, N // K, H).transpose(1, 2)
        return self._add_out(x_BD, read.reshape(-1, N * H))

    @property
    def is_by_panels(self) -> bool:
        """Whether ``decode_in`` works."""
        return isinstance(self._qkv, Panels) and isinstance(self._out, Panels)

    def decode_in(self, space: Workspace, rotation_B: Tensor, lines: Lines, write_at: Tensor, mask: Tensor) -> None:
        """``decode`` of one token of each row, ``space.x_BD``, in its place."""
        assert isinstance(self._qkv, Panels) and isinstance(self._out, Panels)
        self._norm.write(space)
        self._qkv.write(space.heads_PBW, space.normed_for_heads, self._bias_P1W)
        if self._qk_norm is not None:
            self._normalise(space.rotated, self._qk_norm[:, None])
        space.pairs.mul_(rotation_B)
        lines.all.index_put_((write_at,), space.entries)
        torch.baddbmm(mask, space.queries, lines.across, alpha=self._heads[2] ** -0.5, out=space.scores)
        torch.softmax(space.scores, -1, out=space.weights)
        torch.bmm(space.weights, lines.parts[1], out=space.read)
        self._out.write(space.added_PBW, space.read_for_out)
        space.x_BPW.add_(space.added_BPW)
        if self._out_bias is not None:
            space.x_BD.add_(self._out_bias)

    def _queries_keys_values(self, x_BD: Tensor, rotation_B: Tensor) -> Tensor:
        """``[B, G + 2, K, H]``: queries and keys normalised where the architecture does, and rotated."""
        N, K, H = self._heads
        heads = self._qkv.parts(self._norm.of(x_BD), self._qkv_bias).view(len(x_BD), -1, K, H)
        rotated = heads[:, : N // K + 1]
        if self._qk_norm is not None:
            self._normalise(rotated, self._qk_norm)
        exact = rotated.float()  # in float32 the same numbers, not a copy
        exact.view(torch.complex64).mul_(rotation_B[:, None])
        if exact is not rotated:
            rotated.copy_(exact)
        return heads

    def _normalise(self, heads: Tensor, weight: Tensor) -> None:
        heads.copy_(F.rms_norm(heads, heads.shape[-1:], None, self._eps).mul_(weight))

    def _add_out(self, x_BD: Tensor, read: Tensor) -> Tensor:
        x_BD = self._out.add(x_BD, read)
        return x_BD if self._out_bias is None else x_BD.add_(self._out_bias)
