"""What runs on the device: prefill, the decode step over all live rows, the cache's arena and row state.

B rows, T prompt tokens, S cache columns, V vocabulary, D width. Every row has its own columns of the arena, from 0,
prompt first; what a token leaves there is its layer's affair (``gqa.py``, ``mla.py``): parts (keys, values) of heads of
some width. A step is the same few tensor operations whatever the number of rows; Python looks at single rows only when
``step`` reports them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from aha.model.config import ModelConfig
from aha.model.rope import compute_rotation
from aha.rollout.engine import SamplingParams
from aha.rollout.native.feed import Dense
from aha.rollout.native.gqa import GroupedQuery
from aha.rollout.native.memory import PREFILL_TOKENS
from aha.rollout.native.prefixes import Lines, Past, Plain
from aha.rollout.native.rows import LiveRows
from aha.rollout.native.sampler import sample, uniforms
from aha.rollout.native.weights import Weights, kept_type
from aha.rollout.native.workspace import Workspace

_SCORE_ROWS = 1024


class CacheShape(NamedTuple):
    """What one token leaves in the cache of one layer."""

    parts: int
    heads: int
    width: int

    @classmethod
    def of(cls, config: ModelConfig) -> CacheShape:
        if config.latent_attention:
            return cls(1, 1, config.kv_lora_rank + config.qk_rope_head_dim)
        return cls(2, config.num_key_value_heads, config.head_dim)


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prompt read once: its cache ``[layers, parts, heads, T, width]``, the float32 logits ``[V]`` after its end.

    Who drafts also needs the hidden states of the last places and the last tokens.
    """

    cache: Tensor
    logits_V: Tensor
    tail: tuple[Tensor, Tensor] | None = None

    @property
    def kept(self) -> Plain:
        """A copy: of prompts that were read at once, each is a part of one tensor."""
        return Plain(self.cache.clone())


class Runner(LiveRows):
    """Weights, arena and live rows on one device. Arguments are trusted: ``NativeEngine`` checks them.

    ``ahead`` modules of multi-token prediction have weights and a place in the arena, behind the body's layers.
    """

    _column_step = 32  # columns are as many as the longest row needs, rounded up to a multiple of it

    def __init__(self, config: ModelConfig, *, dtype: torch.dtype, device: torch.device, ahead: int = 0) -> None:
        super().__init__(config, dtype=kept_type(dtype, device), device=device, ahead=ahead)
        self._cache = CacheShape.of(config)
        self.weights = Weights(config, dtype=dtype, device=device, ahead=ahead)
        self._memory = torch.zeros(0, dtype=self._dtype, device=device)
        self._rotation = torch.zeros(0, 1, config.head_dim // 2, dtype=torch.complex64, device=device)

    @torch.inference_mode()
    def begin(
        self,
        num_slots: int,
        num_columns: int,
        params: SamplingParams,
        suspects: Sequence[int] = (),
        stops: Sequence[int] = (),
    ) -> None:
        """Makes room for ``num_slots`` rows of ``num_columns`` tokens; memory of earlier calls is used again."""
        config, device = self._config, self._device
        parts, heads, width = self._cache
        shape = (config.num_hidden_layers + self._ahead, parts, num_slots, heads, num_columns, width)
        size = torch.Size(shape).numel()
        self._lines: list[Lines] = []
        self._space: Workspace | None = None
        if self._memory.numel() < size:
            # Zeros, not garbage: what a masked column holds is multiplied by 0 and must be finite.
            self._memory = self._room = self._arena = torch.zeros(0, dtype=self._dtype, device=device)
            self._memory = torch.zeros(size, dtype=self._dtype, device=device)
        self._room = self._memory[:size].view(shape[0], -1)  # of each layer
        self._arena = self._room[:, :0].view(*shape[:4], 0, width)
        self._used = 0  # slots that have had a row
        self._begin_rows(num_slots, params, suspects, stops)
        self._uniforms = torch.zeros_like(self._out_logprobs, dtype=torch.float64)  # of all tokens a row may sample
        self._columns = torch.arange(num_columns, device=device)
        self._extend_rotation(num_columns)

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[Prefix]:
        """Reads each prompt once. Prompts are padded to the longest of a batch, so callers sort them by length."""
        return [prefix for batch in _batches(prompts) for prefix in self._read(batch)]

    @torch.inference_mode()
    def extend(self, pasts: Sequence[Plain], tails: Sequence[Sequence[int]]) -> list[Prefix]:
        """Reads each tail behind what was read before it."""
        before = (past.cache for past in pasts)
        prefixes = []
        for batch in _batches(tails):
            behind = [next(before) for _ in batch]
            entries: list[Tensor] = []
            read = self._prefixes(batch, self._forward(self._pad(batch), entries, behind), entries)
            for past, own in zip(behind, read, strict=True):
                prefixes.append(replace(own, cache=torch.cat((past, own.cache), -2)))
        return prefixes

    @torch.inference_mode()
    def keep(self, slots: Sequence[int]) -> list[Plain]:
        """A copy of the cache of each row: of its prompt and all it has sampled but the last token."""
        lengths = self._positions[self._tensor(slots)].tolist()
        return [Plain(self._arena[:, :, slot, :, :n].clone()) for slot, n in zip(slots, lengths, strict=True)]

    @torch.inference_mode()
    def score(self, sequences: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
        """Log-probability at temperature 1 of every token but the first, given those before it."""
        self._extend_rotation(max(map(len, sequences), default=0))
        scores: list[tuple[float, ...]] = []
        for batch in _batches(sequences):
            hidden_BTD = self._forward(self._pad(batch), None)
            for hidden_TD, ids in zip(hidden_BTD, batch, strict=True):
                targets = torch.tensor(ids[1:], dtype=torch.int64, device=self._device)
                parts = [
                    torch.log_softmax(self._logits(hidden), -1).gather(-1, wanted[:, None]).squeeze(-1)
                    for hidden, wanted in zip(
                        torch.split(hidden_TD[: len(targets)], _SCORE_ROWS),
                        torch.split(targets, _SCORE_ROWS),
                        strict=True,
                    )
                ]
                scores.append(tuple(torch.cat(parts).tolist()) if len(targets) else ())
        return scores

    @torch.inference_mode()
    def read_states(
        self, pasts: Sequence[Plain | None], texts: Sequence[Sequence[int]]
    ) -> list[tuple[Plain, Tensor]]:
        """Each text's cache behind what was read before it, and its hidden states ``[T, D]`` after the final norm."""
        (parts, heads, width), layers = self._cache, self._config.num_hidden_layers
        nothing = torch.zeros(layers, parts, heads, 0, width, dtype=self._dtype, device=self._device)
        before = iter(nothing if past is None else past.cache for past in pasts)
        found = []
        for batch in _batches(texts):
            behind = [next(before) for _ in batch]
            entries: list[Tensor] = []
            hidden_BTD = self._forward(self._pad(batch), entries, behind)
            stacked = torch.stack(entries)  # [layers, parts, B, heads, T, width]
            for b, (past, ids) in enumerate(zip(behind, batch, strict=True)):
                cache = torch.cat((past, stacked[:, :, b, :, : len(ids)]), -2)
                found.append((Plain(cache), hidden_BTD[b, : len(ids)]))
        return found

    @torch.inference_mode()
    def admit(
        self, slots: Sequence[int], prefixes: Sequence[Prefix], seeds: Sequence[int], limits: Sequence[int]
    ) -> list[tuple[int, int]]:
        """Gives each slot a row behind its prompt and samples its first token. Returns what ``step`` returns."""
        self._fit(max(self._arena.shape[-2], *(prefix.cache.shape[-2] for prefix in prefixes)))
        self._used = max(self._used, *(slot + 1 for slot in slots))
        for slot, prefix in zip(slots, prefixes, strict=True):
            self._arena[:, :, slot, :, : prefix.cache.shape[-2]] = prefix.cache
        at = self._tensor(slots)
        own_B = self._seeds[at] = self._tensor(seeds)
        self._uniforms[at] = uniforms(own_B[:, None], torch.arange(self._uniforms.shape[1], device=self._device))
        self._limits[at] = self._tensor(limits)
        # One less: recording the first token moves on to the position at which that token is fed.
        self._positions[at] = self._tensor([prefix.cache.shape[-2] for prefix in prefixes]) - 1
        self._counts[at] = 0
        logits_BV = torch.stack([prefix.logits_V for prefix in prefixes])
        return self._record(at, *self._sample(logits_BV, at, self._counts[at]))

    @torch.inference_mode()
    def step(self, num_live: int, num_columns: int) -> list[tuple[int, int]]:
        """Feeds the last token of rows ``0 .. num_live - 1`` and samples the next; ``num_columns`` fit the longest.

        Returns (slot, bits of ENDED, SUSPECT, FULL, BROKEN) of the rows that somebody must look at.
        """
        self._used = num_live
        self._fit(num_columns)
        at = slice(num_live)
        logits_BV = self._decode(self._positions[at])
        return self._record(at, *self._sample(logits_BV, self._slots[at], self._counts[at]))

    @torch.inference_mode()
    def move(self, moves: Sequence[tuple[int, int]]) -> None:
        """Moves rows, with their cache, from slot to slot."""
        if not moves:
            return
        sources, targets = (self._tensor(column) for column in zip(*moves, strict=True))
        lengths = self._positions[sources].tolist()
        for (source, target), length in zip(moves, lengths, strict=True):
            self._arena[:, :, target, :, :length] = self._arena[:, :, source, :, :length]
        for state in self._row_states():
            state[targets] = state[sources]

    @torch.inference_mode()
    def forget(self) -> None:
        """Clears the arena: a NaN in it would reach later rows through columns that are masked."""
        self._memory.zero_()

    def load(self, decoder: nn.Module) -> None:
        """Copies the decoder's weights."""
        self.weights.copy_from(decoder)

    def _row_states(self) -> tuple[Tensor, ...]:
        return (*super()._row_states(), self._uniforms)

    def _sample(self, logits_BV: Tensor, rows_B: Tensor, counts_B: Tensor) -> tuple[Tensor, Tensor]:
        """Token ``counts`` of each of ``rows``, and its log-probability."""
        params = self._params
        return sample(
            logits_BV,
            self._uniforms[rows_B, counts_B],
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
        )

    def _fit(self, num_columns: int) -> None:
        """Lays the rows out anew where they have too few columns, or twice too many.

        They have no more than the longest needs, so that decoding multiplies all of the arena and not a slice of it:
        on a CPU a slice takes twice as long in float32, and is copied first in bfloat16.
        """
        before, found = self._arena, self._arena.shape[-2]
        if found // 2 < num_columns <= found:
            return
        columns = min(-(-num_columns // self._column_step) * self._column_step, len(self._columns))
        if columns == found:
            return
        layers, parts, slots, heads, _, width = before.shape
        shape = (parts, slots, heads, columns, width)
        self._arena = self._room[:, : torch.Size(shape).numel()].view(layers, *shape)
        kept = min(found, columns)
        for old, new in zip(before, self._arena, strict=True):
            new[:, : self._used, :, :kept] = old[:, : self._used, :, :kept].clone()
        self._lines = []
        # Where each part and head of each row's column 0 lies in a layer seen as rows of ``width`` numbers.
        first = torch.arange(parts, device=self._device)[:, None] * slots * heads
        first = first + torch.arange(heads, device=self._device)
        self._starts = (self._slots[:, None, None] * heads + first) * columns

    def _open(self, num_rows: int) -> list[Lines]:
        """Of every layer the part of the arena that decoding so many rows reads, laid out anew where it is another."""
        heads = self._cache.heads
        if not self._lines or len(self._lines[0].parts[0]) != num_rows * heads:
            self._lines = [Lines.of(arena, num_rows) for arena in self._arena]
        return self._lines

    def _decode(self, positions_B: Tensor) -> Tensor:
        """Float32 logits ``[B, V]`` behind the last tokens of the first B rows, which stand at ``positions``."""
        num_rows = len(positions_B)
        rotation_B = self._rotation[positions_B]
        write_at = self._starts[:num_rows] + positions_B[:, None, None]
        num_columns = self._arena.shape[-2]
        mask_BS = torch.zeros(num_rows, num_columns, dtype=self._dtype, device=self._device)
        mask_BS.masked_fill_(self._columns[:num_columns] > positions_B[:, None], float("-inf"))
        mask = mask_BS[:, None].expand(-1, self._cache.heads, -1).reshape(-1, 1, num_columns)
        x_BD = self.weights.embedding.rows(self._tokens[:num_rows])
        if self.weights.are_by_panels:
            return self._decode_in_place(x_BD, rotation_B, write_at, mask)
        for layer, lines in zip(self.weights.layers, self._open(num_rows), strict=True):
            x_BD = layer.attention.decode(x_BD, rotation_B, lines, write_at, mask)
            x_BD = layer.feed.forward(x_BD)
        return self._logits(self.weights.norm.of(x_BD))

    def _decode_in_place(self, x_BD: Tensor, rotation_B: Tensor, write_at: Tensor, mask: Tensor) -> Tensor:
        """The same layers, by operations that write where those of the step before did."""
        shape = len(x_BD), mask.shape[-1]
        if self._space is None or self._space.shape != shape:
            self._space = Workspace(self._config, *shape)
        space = self._space
        space.x_BD.copy_(x_BD)
        for layer, lines in zip(self.weights.layers, self._open(len(x_BD)), strict=True):
            assert isinstance(layer.attention, GroupedQuery) and isinstance(layer.feed, Dense)
            layer.attention.decode_in(space, rotation_B, lines, write_at, mask)
            layer.feed.forward_in(space)
        self.weights.norm.write(space)
        return self._logits(space.normed_BD)

    def _read(self, batch: Sequence[Sequence[int]]) -> list[Prefix]:
        entries: list[Tensor] = []
        hidden_BTD = self._forward(self._pad(batch), entries)
        return self._prefixes(batch, hidden_BTD, entries)

    def _prefixes(self, batch: Sequence[Sequence[int]], hidden_BTD: Tensor, entries: Sequence[Tensor]) -> list[Prefix]:
        last_B = self._tensor([len(ids) - 1 for ids in batch])
        logits_BV = self._logits(hidden_BTD[torch.arange(len(batch), device=self._device), last_B])
        stacked = torch.stack(list(entries))  # [layers, parts, B, heads, T, width]
        return [Prefix(stacked[:, :, b, :, : len(ids)], logits_BV[b]) for b, ids in enumerate(batch)]

    def _pad(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        ids_BT = torch.zeros(len(prompts), max(map(len, prompts)), dtype=torch.int64)
        for b, ids in enumerate(prompts):
            ids_BT[b, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return ids_BT.to(self._device)

    def _forward(
        self, ids_BT: Tensor, entries: list[Tensor] | None, pasts: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Hidden states ``[B, T, D]`` after the final norm; appends what a layer caches to ``entries``: ``[parts, B,
        heads, T, width]``. ``pasts`` has the cache of what stands before each row."""
        B, T = ids_BT.shape
        if pasts is None:
            rotation = self._rotation[:T].repeat(B, 1, 1)
            behind: list[Past | None] = [None] * len(self.weights.layers)
        else:
            rotation, behind = self._place(pasts, T)
        x = self.weights.embedding.rows(ids_BT.view(-1))
        for layer, past in zip(self.weights.layers, behind, strict=True):
            x, cached = layer.attention.prefill(x, rotation, B, past)
            x = layer.feed.forward(x)
            if entries is not None:
                entries.append(cached)
        return self.weights.norm.of(x).view(B, T, -1)

    def _place(self, pasts: Sequence[Tensor], T: int) -> tuple[Tensor, list[Past | None]]:
        """For T tokens behind each past: their rotation, and what every layer has of the pasts."""
        lengths_B = self._tensor([past.shape[-2] for past in pasts])
        S = int(lengths_B.max())
        layers, parts, heads, _, width = pasts[0].shape
        cache = torch.zeros(layers, parts, len(pasts), heads, S, width, dtype=self._dtype, device=self._device)
        for b, past in enumerate(pasts):
            cache[:, :, b, :, : past.shape[-2]] = past
        self._extend_rotation(S + T)
        steps_T = torch.arange(T, device=self._device)
        rotation = self._rotation[(lengths_B[:, None] + steps_T).flatten()]
        sees_past = (torch.arange(S, device=self._device) < lengths_B[:, None])[:, None].expand(-1, T, -1)
        sees_own = (steps_T <= steps_T[:, None]).expand(len(pasts), -1, -1)
        mask = torch.cat((sees_past, sees_own), -1)[:, None]
        return rotation, [Past(of_layer, mask) for of_layer in cache]

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.weights.head.of(hidden).float()

    def _extend_rotation(self, length: int) -> None:
        if len(self._rotation) < length:
            half = self._config.head_dim // 2
            cos, sin = compute_rotation(
                torch.arange(length, device=self._device),
                head_dim=2 * half,
                theta=self._config.rope_theta,
                scaling=self._config.rope_scaling,
            )
            self._rotation = torch.complex(cos[..., half:].contiguous(), sin[..., half:].contiguous())


def _batches(prompts: Sequence[Sequence[int]]) -> list[Sequence[Sequence[int]]]:
    """Consecutive prompts whose padded batch stays within the token budget; one prompt may exceed it alone."""
    batches: list[list[Sequence[int]]] = []
    width = 0
    for ids in prompts:
        wider = max(width, len(ids))
        if not batches or wider * (len(batches[-1]) + 1) > PREFILL_TOKENS:
            batches.append([])
            wider = len(ids)
        batches[-1].append(ids)
        width = wider
    return list(batches)
