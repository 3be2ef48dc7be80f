"""The sampler on a CPU with the compiled kernels: what ``runner.py`` does, a step as one call of ``kernels.c``.

A row is one token of one sequence; prompts and single tokens are read by the same code, so a token's numbers do not
depend on how it was read, nor with what. Each prompt has a block of cache of its own, which all its samples read; what
a sample adds stands in its place of one arena that lives as long as the engine. Nothing is copied when rows begin, and
a row that moves takes its place's address along.

B rows, V vocabulary, H head width.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aha.model.config import ModelConfig
from aha.model.count import count_parameters
from aha.model.rope import compute_rotation
from aha.rollout.engine import SamplingParams
from aha.rollout.native.int8 import rest_of
from aha.rollout.native.kernels import Kernels, ModelPointers, RowPointers, StatePointers, address
from aha.rollout.native.packed import PackedWeights
from aha.rollout.native.rows import LiveRows

_READ_ROWS = 256  # tokens of prompts read at once: what they hold for a moment stays near the processor
_SCORE_NUMBERS = 1 << 22  # logits made at once when scoring
_WORTH_THREADS = 1 << 22  # products of rows and weights


class Block(NamedTuple):
    """The cache of a text's first ``length`` tokens, in the ``columns`` of ``words``."""

    words: Tensor
    columns: int
    length: int

    @property
    def nbytes(self) -> int:
        return self.words.nbytes

    def first(self, length: int) -> Block:
        return Block(self.words, self.columns, length)


@dataclass(frozen=True, slots=True)
class CompiledPrefix:
    """A prompt read once: its cache, and the float32 logits ``[V]`` after its end."""

    kept: Block
    logits_V: Tensor


class CompiledRunner(LiveRows):
    """Weights, arena and live rows. Arguments are trusted: ``NativeEngine`` checks them."""

    def __init__(self, config: ModelConfig, kernels: Kernels, *, dtype: torch.dtype) -> None:
        super().__init__(config, dtype=rest_of(dtype), device=torch.device("cpu"))
        self._kernels = kernels
        self.weights = PackedWeights(config, kernels, dtype=dtype)
        width, lanes = config.head_dim, kernels.lanes
        numbers = config.num_hidden_layers * config.num_key_value_heads * (width + -(-width // lanes) * lanes)
        self._column_words = numbers * self._dtype.itemsize // 4  # of a block, see kernels.c
        self._num_weights = count_parameters(config)
        self._memory = torch.zeros(0, dtype=torch.int32)
        self._logits = torch.zeros(0)
        self._model = ModelPointers()
        self.weights.point(self._model)
        self._scratch: dict[str, Tensor] = {}
        self._rotation = (torch.zeros(0, width // 2), torch.zeros(0, width // 2))
        self._make_scratch(_READ_ROWS)

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
        self._begin_rows(num_slots, params, suspects, stops)
        self._columns = self._round_up(min(params.max_new_tokens, num_columns))
        words = self._columns * self._column_words
        if self._memory.numel() < num_slots * words:
            self._memory = torch.zeros(0, dtype=torch.int32)
            self._memory = torch.zeros(num_slots * words, dtype=torch.int32)
        self._make_scratch(num_slots)
        if self._logits.numel() < num_slots * self._config.vocab_size:
            self._logits = torch.empty(num_slots * self._config.vocab_size)
        self._held: list[CompiledPrefix | None] = [None] * num_slots
        self._own = self._memory.data_ptr() + 4 * words * torch.arange(num_slots)
        self._own_columns = torch.full((num_slots,), self._columns)
        self._past, self._past_columns, self._past_lengths = torch.zeros(3, num_slots, dtype=torch.int64).unbind()
        self._rows = RowPointers(
            *map(
                address,
                (
                    self._tokens, self._positions, self._own, self._own_columns, self._past, self._past_columns,
                    self._past_lengths,
                ),
            )
        )  # fmt: skip
        self._reported = torch.empty(num_slots, 2, dtype=torch.int64)
        of_rows = (self._tokens, self._positions, self._counts, self._seeds, self._limits)
        outs = map(address, (*of_rows, self._out_tokens, self._out_logprobs))
        self._state = StatePointers(*outs, self._out_tokens.shape[1], address(self._flags_V))
        self._extend_rotation(num_columns)

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[CompiledPrefix]:
        """Reads each prompt once."""
        return self._read([None] * len(prompts), prompts)

    @torch.inference_mode()
    def extend(self, pasts: Sequence[Block], tails: Sequence[Sequence[int]]) -> list[CompiledPrefix]:
        """Reads each tail behind what was read before it."""
        return self._read(pasts, tails)

    @torch.inference_mode()
    def keep(self, slots: Sequence[int]) -> list[Block]:
        """A copy of the cache of each row: of its prompt and all it has sampled but the last token."""
        at = self._tensor(slots)
        kept: list[Block] = []
        copies: list[int] = []
        for slot, own, length in zip(slots, self._own[at].tolist(), self._positions[at].tolist(), strict=True):
            prefix = self._held[slot]
            assert prefix is not None
            before, block = prefix.kept, self._block(length)
            kept.append(block)
            into = (block.words.data_ptr(), block.columns)
            copies += (before.words.data_ptr(), before.columns, before.length, *into, 0)
            copies += (own, self._columns, length - before.length, *into, before.length)
        self._copy(copies)
        return kept

    @torch.inference_mode()
    def score(self, sequences: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
        """Log-probability at temperature 1 of every token but the first, given those before it."""
        vocab = self._config.vocab_size
        step = max(1, _SCORE_NUMBERS // vocab)
        scores: list[tuple[float, ...]] = []
        for ids in sequences:
            found: list[Tensor] = []
            for start, end in self._forward(self._blocks([None], [ids]), [ids]):
                for first in range(start, min(end, len(ids) - 1), step):
                    last = min(first + step, end, len(ids) - 1)
                    logits = self._read_off(torch.arange(first - start, last - start), torch.empty(last - first, vocab))
                    wanted = torch.tensor(ids[first + 1 : last + 1])[:, None]
                    found.append(torch.log_softmax(logits, -1).gather(-1, wanted).squeeze(-1))
            scores.append(tuple(torch.cat(found).tolist()) if found else ())
        return scores

    @torch.inference_mode()
    def read_states(
        self, pasts: Sequence[Block | None], texts: Sequence[Sequence[int]]
    ) -> list[tuple[Block, Tensor]]:
        """Each text's cache behind what was read before it, and its hidden states ``[T, D]`` after the final norm."""
        blocks = self._blocks(pasts, texts)
        parts = [self._scratch["x"][: end - start].clone() for start, end in self._forward(blocks, texts)]
        norm_D = self.weights.norm_D
        states = F.rms_norm(torch.cat(parts), norm_D.shape, norm_D, self._config.rms_norm_eps)
        return list(zip(blocks, torch.split(states, [len(ids) for ids in texts]), strict=True))

    @torch.inference_mode()
    def admit(
        self, slots: Sequence[int], prefixes: Sequence[CompiledPrefix], seeds: Sequence[int], limits: Sequence[int]
    ) -> list[tuple[int, int]]:
        """Gives each slot a row behind its prompt and samples its first token. Returns what ``step`` returns."""
        for slot, prefix in zip(slots, prefixes, strict=True):
            self._held[slot] = prefix
        at = self._tensor(slots)
        lengths = self._tensor([prefix.kept.length for prefix in prefixes])
        self._past[at] = self._tensor([prefix.kept.words.data_ptr() for prefix in prefixes])
        self._past_columns[at] = self._tensor([prefix.kept.columns for prefix in prefixes])
        self._past_lengths[at] = lengths
        self._seeds[at] = self._tensor(seeds)
        self._limits[at] = self._tensor(limits)
        # One less: recording the first token moves on to the position at which that token is fed.
        self._positions[at] = lengths - 1
        self._counts[at] = 0
        logits_BV = torch.stack([prefix.logits_V for prefix in prefixes])
        return self._record(at, *self._sample(logits_BV, self._seeds[at], self._counts[at]))

    @torch.inference_mode()
    def step(self, num_live: int, num_columns: int) -> list[tuple[int, int]]:
        """Feeds the last token of rows ``0 .. num_live - 1`` and samples the next; ``num_columns`` fit the longest.

        Returns (slot, bits of ENDED, SUSPECT, FULL, BROKEN) of the rows that somebody must look at.
        """
        longest = self._round_up(num_columns) + self._kernels.panel  # prompt and completion are each rounded up
        threads = self._threads(num_live)
        self._kernels.forward(self._model, num_live, self._rows, longest, threads)
        logits_BV = self._logits[: num_live * self._config.vocab_size].view(num_live, -1)
        self._kernels.read_logits(self._model, num_live, None, address(logits_BV), threads)
        tokens_B, logprobs_B = self._sample(logits_BV, self._seeds[:num_live], self._counts[:num_live])
        num = self._kernels.record(self._state, num_live, *map(address, (tokens_B, logprobs_B, self._reported)))
        return [(slot, bits) for slot, bits in self._reported[:num].tolist()] if num else []

    @torch.inference_mode()
    def move(self, moves: Sequence[tuple[int, int]]) -> None:
        """Moves rows from slot to slot; their cache stays where it is, slots change places in the arena."""
        if not moves:
            return
        sources, targets = (self._tensor(column) for column in zip(*moves, strict=True))
        for state in (*self._row_states(), self._past, self._past_columns, self._past_lengths):
            state[targets] = state[sources]
        own_sources, own_targets = self._own[sources], self._own[targets]
        self._own[targets], self._own[sources] = own_sources, own_targets
        for source, target in moves:
            self._held[target], self._held[source] = self._held[source], None

    @torch.inference_mode()
    def forget(self) -> None:
        """Clears the arena: a NaN in it would reach a later row that has the other half of its word."""
        self._memory.zero_()

    def load(self, decoder: nn.Module) -> None:
        """Copies the decoder's weights."""
        self.weights.copy_from(decoder)

    def _sample(self, logits_BV: Tensor, seeds_B: Tensor, index_B: Tensor) -> tuple[Tensor, Tensor]:
        params = self._params
        B, V = logits_BV.shape
        tokens_B, logprobs_B = torch.empty(B, dtype=torch.int64), torch.empty(B)
        numbers = [address(tensor) for tensor in (seeds_B, index_B, tokens_B, logprobs_B)]
        how = (params.temperature, params.top_k, params.top_p)
        self._kernels.sample(address(logits_BV), B, V, *how, *numbers, self._threads(B))
        return tokens_B, logprobs_B

    def _read(self, pasts: Sequence[Block | None], texts: Sequence[Sequence[int]]) -> list[CompiledPrefix]:
        if not texts:
            return []
        ends = torch.tensor([len(ids) for ids in texts]).cumsum(0) - 1
        blocks, logits = self._blocks(pasts, texts), []
        for start, end in self._forward(blocks, texts):
            rows = ends[(ends >= start) & (ends < end)] - start
            if len(rows):
                logits.append(self._read_off(rows, torch.empty(len(rows), self._config.vocab_size)))
        return [CompiledPrefix(block, logits_V) for block, logits_V in zip(blocks, torch.cat(logits), strict=True)]

    def _blocks(self, pasts: Sequence[Block | None], texts: Sequence[Sequence[int]]) -> list[Block]:
        """A block for each text behind what stands before it, which it has already."""
        blocks: list[Block] = []
        copies: list[int] = []
        for past, ids in zip(pasts, texts, strict=True):
            before = 0 if past is None else past.length
            block = self._block(before + len(ids))
            blocks.append(block)
            if past is not None:
                into = (block.words.data_ptr(), block.columns)
                copies += (past.words.data_ptr(), past.columns, before, *into, 0)
        self._copy(copies)
        return blocks

    def _block(self, length: int) -> Block:
        columns = self._round_up(length)
        make = torch.empty if self._dtype == torch.float32 else torch.zeros  # half a word must be finite to be masked
        return Block(make(columns * self._column_words, dtype=torch.int32), columns, length)

    def _round_up(self, tokens: int) -> int:
        """Columns of a block that hold so many."""
        return -(-tokens // self._kernels.panel) * self._kernels.panel

    def _copy(self, copies: Sequence[int]) -> None:
        """Six numbers each, see kernels.c."""
        if copies:
            table = array("q", copies)
            self._kernels.copy_cache(self._model, len(copies) // 6, table.buffer_info()[0])

    def _forward(self, blocks: Sequence[Block], texts: Sequence[Sequence[int]]) -> Iterator[tuple[int, int]]:
        """Reads the texts into their blocks, some tokens of all at a time; yields from where to where it has come."""
        lengths = torch.tensor([len(ids) for ids in texts])
        token = torch.tensor([token for ids in texts for token in ids])
        first = torch.tensor([block.length for block in blocks]) - lengths.cumsum(0)  # of each text, less what it adds
        position = torch.arange(len(token)) + first.repeat_interleave(lengths)
        own = torch.tensor([block.words.data_ptr() for block in blocks]).repeat_interleave(lengths)
        columns = torch.tensor([block.columns for block in blocks]).repeat_interleave(lengths)
        none, longest = torch.zeros_like(own), max(block.columns for block in blocks)
        self._extend_rotation(longest)
        for start in range(0, len(token), _READ_ROWS):
            end = min(start + _READ_ROWS, len(token))
            rows = RowPointers(*(address(of[start:end]) for of in (token, position, own, columns, none, none, none)))
            self._kernels.forward(self._model, end - start, rows, longest, self._threads(end - start))
            yield start, end

    def _read_off(self, rows: Tensor, into: Tensor) -> Tensor:
        self._kernels.read_logits(self._model, len(rows), address(rows), address(into), self._threads(len(rows)))
        return into

    def _threads(self, num_rows: int) -> int:
        """PyTorch's number, or one where there is so little to do that threads would mostly wait for each other."""
        return torch.get_num_threads() if num_rows * self._num_weights > _WORTH_THREADS else 1

    def _make_scratch(self, num_rows: int) -> None:
        config = self._config
        D, H, N, K = config.hidden_size, config.head_dim, config.num_attention_heads, config.num_key_value_heads
        if self._scratch and len(self._scratch["x"]) >= num_rows:
            return
        self._scratch = {
            "x": torch.empty(num_rows, D),
            "qkv": torch.empty(num_rows, (N + 2 * K) * H),
        } | {
            name: torch.zeros(num_rows, -(-width // 16) * 16 + 16, dtype=torch.int32)
            for name, width in (("normed", D), ("query", N * H), ("read", N * H), ("act", config.intermediate_size))
        }
        for name, tensor in self._scratch.items():
            setattr(self._model, name, address(tensor))

    def _extend_rotation(self, length: int) -> None:
        if len(self._rotation[0]) < length:
            config, half = self._config, self._config.head_dim // 2
            cos, sin = compute_rotation(
                torch.arange(length), head_dim=2 * half, theta=config.rope_theta, scaling=config.rope_scaling
            )
            self._rotation = (cos[:, 0, half:].contiguous(), sin[:, 0, half:].contiguous())
            self._model.cos, self._model.sin = map(address, self._rotation)
