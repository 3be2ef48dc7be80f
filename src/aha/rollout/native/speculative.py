"""Speculative decoding with the model's own modules of multi-token prediction (DeepSeek-V3, 2412.19437, 5.4.3).

A step drafts K tokens a row, one by each module, and lets the model read them behind the row's last token, all in one
forward pass; rollout/native/acceptance.py says which are kept. So a row grows by 1 to K + 1 tokens a step, each with
the model's own log-probability.

Between steps a row has ``m`` tokens, of which the last has not been read yet. Its *window* are the places
``base .. base + 2 K - 1``, where ``base`` is K less than the number of tokens before the last step: the only ones at
which a module has something to do, because a token it needs came with that step, or was a draft before. The window's
last place with a known next token is ``m - 2``; there the next drafts are read off. Places before token 0 (of a very
short prompt) and after ``m - 2`` are computed too, and never looked at.

B rows, K drafts, T = K + 1 tokens verified, W = 2 K places of the window, S cache columns, V vocabulary, D width, N
query heads, H head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from aha.rollout.engine import SamplingParams
from aha.rollout.native.acceptance import draft, verify
from aha.rollout.native.prefixes import Lines
from aha.rollout.native.rows import BROKEN, FULL
from aha.rollout.native.runner import Prefix, Runner
from aha.rollout.native.weights import Layer, Module


@dataclass(frozen=True, slots=True)
class Speculation:
    """What came of drafts: ``Speculation(steps=10, rows=20, tokens=37, accepted=(17,))``.

    ``steps`` forward passes of the model verified the drafts of ``rows`` rows, all passes together, each one draft by
    each module; ``accepted`` of them, by module, were kept, and the rows grew by ``tokens``. (Each row's first token
    comes from its prompt, without a step.)
    """

    steps: int
    rows: int
    tokens: int
    accepted: tuple[int, ...]

    @property
    def drafted(self) -> int:
        return self.rows * len(self.accepted)

    @property
    def acceptance(self) -> float:
        """The share of the drafts that were kept."""
        return sum(self.accepted) / self.drafted if self.drafted else 0.0

    @property
    def tokens_per_step(self) -> float:
        """By how many tokens a row grew a step; 1 without drafts."""
        return self.tokens / self.rows if self.rows else 0.0


class SpeculativeRunner(Runner):
    """A ``Runner`` that drafts with ``ahead`` modules, at least 1. Its steps report rows in the same way."""

    @torch.inference_mode()
    def begin(
        self,
        num_slots: int,
        num_columns: int,
        params: SamplingParams,
        suspects: Sequence[int] = (),
        stops: Sequence[int] = (),
    ) -> None:
        super().begin(num_slots, num_columns, params, suspects, stops)
        K, D, device = self._ahead, self._config.hidden_size, self._device
        self._bases = torch.zeros(num_slots, dtype=torch.int64, device=device)
        # Of the window: the body's states, and the tokens that come after each place, as many more as modules look at.
        self._hidden = torch.zeros(num_slots, 2 * K, D, dtype=self._dtype, device=device)
        self._next = torch.zeros(num_slots, 3 * K, dtype=torch.int64, device=device)
        self._steps = 0
        self._tally = torch.zeros(2 + K, dtype=torch.int64, device=device)  # rows, tokens, accepted by module

    def speculation(self) -> Speculation:
        """Counts since ``begin``."""
        rows, tokens, *accepted = self._tally.tolist()
        return Speculation(self._steps, rows, tokens, tuple(accepted))

    @torch.inference_mode()
    def admit(
        self, slots: Sequence[int], prefixes: Sequence[Prefix], seeds: Sequence[int], limits: Sequence[int]
    ) -> list[tuple[int, int]]:
        K, at = self._ahead, self._tensor(slots)
        for slot, prefix in zip(slots, prefixes, strict=True):
            assert prefix.tail is not None
            self._hidden[slot, :K], self._next[slot, : K - 1] = prefix.tail
        reported = super().admit(slots, prefixes, seeds, limits)
        self._bases[at] = self._positions[at] - K
        self._next[at, K - 1] = self._tokens[at]
        return reported

    @torch.inference_mode()
    def step(self, num_live: int, num_columns: int) -> list[tuple[int, int]]:
        """As ``Runner.step``; rows grow unequally, so the columns needed are counted here, not by the caller."""
        self._used = num_live
        self._fit(int(self._positions[:num_live].max()) + self._ahead + 2)  # and one for what belongs nowhere
        drafts_BK, draft_probs_BKV, fine_B = self._draft(num_live)
        logits_BTV, hidden_BTD = self._read_drafts(drafts_BK)
        params = self._params
        tokens_BT, logprobs_BT, kept_B = verify(
            logits_BTV,
            drafts_BK,
            draft_probs_BKV,
            self._seeds[:num_live],
            self._counts[:num_live],
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
        )
        return self._extend(tokens_BT, logprobs_BT, kept_B, hidden_BTD, fine_B)

    def _row_states(self) -> tuple[Tensor, ...]:
        return (*super()._row_states(), self._bases, self._hidden, self._next)

    def _read(self, batch: Sequence[Sequence[int]]) -> list[Prefix]:
        """As without drafts, and each module reads the prompts too; the end of each is done again with what follows."""
        K, ids_BT = self._ahead, self._pad(batch)
        B, T = ids_BT.shape
        entries: list[Tensor] = []
        hidden_BTD = self._forward(ids_BT, entries)
        prefixes = self._prefixes(batch, hidden_BTD, entries)
        rotation, x = self._rotation[:T].repeat(B, 1, 1), hidden_BTD.flatten(0, 1)
        ahead: list[Tensor] = []
        for k, module in enumerate(self.weights.modules, start=1):
            x, cached = module.layer.attention.prefill(
                self._join(ids_BT.roll(-k, 1).flatten(), x, module), rotation, B
            )
            x = module.norm.of(module.layer.feed.forward(x))
            ahead.append(cached)
        modules = torch.stack(ahead)
        whole = []
        for b, (ids, prefix) in enumerate(zip(batch, prefixes, strict=True)):
            length = len(ids)
            hidden_KD = F.pad(hidden_BTD[b, max(0, length - K) : length], (0, 0, max(0, K - length), 0))
            last = self._tensor([0] * max(0, K - length) + list(ids[max(0, length - K) :]))[1:]
            both = torch.cat((prefix.cache, modules[:, :, b, :, :length]))
            whole.append(replace(prefix, cache=both, tail=(hidden_KD, last)))
        return whole

    def _draft(self, num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Ids [B, K], their distributions [B, K, V] (empty when greedy), and which rows' logits were finite [B]."""
        W, params = 2 * self._ahead, self._params
        rows_B = self._slots[:num_rows]
        bases_B = self._bases[:num_rows]
        places_BW = bases_B[:, None] + self._columns[:W]
        last_B = self._positions[:num_rows] - 1 - bases_B
        real_BW = places_BW.clamp_min(0)
        trash = self._arena.shape[-2] - 1
        block = self._block(real_BW, torch.where(places_BW < 0, trash, places_BW))
        next_BX = self._next[:num_rows].clone()
        x = self._hidden[:num_rows].flatten(0, 1)
        drafts, probs = [], []
        fine_B = torch.ones(num_rows, dtype=torch.bool, device=self._device)
        opened = self._open(num_rows)[self._config.num_hidden_layers :]
        for k, (module, lines) in enumerate(zip(self.weights.modules, opened, strict=True)):
            x = self._join(next_BX[:, k : k + W].flatten(), x, module)
            x = module.norm.of(self._run_block(x, module.layer, lines, block))
            logits_BV = self._logits(x.view(num_rows, W, -1)[rows_B, last_B])
            tokens_B, probs_BV, finite_B = draft(
                logits_BV,
                self._seeds[:num_rows],
                self._counts[:num_rows] + k,
                temperature=params.temperature,
                top_k=params.top_k,
                top_p=params.top_p,
            )
            next_BX[rows_B, last_B + 1 + k] = tokens_B
            drafts.append(tokens_B)
            probs.append(probs_BV)
            fine_B &= finite_B
        return torch.stack(drafts, 1), torch.stack(probs, 1), fine_B

    def _read_drafts(self, drafts_BK: Tensor) -> tuple[Tensor, Tensor]:
        """The body on each row's last token and its drafts: float32 logits [B, T, V], normed states [B, T, D]."""
        num_rows, K = drafts_BK.shape
        positions_BT = self._positions[:num_rows, None] + self._columns[: K + 1]
        block = self._block(positions_BT, positions_BT)
        ids_BT = torch.cat((self._tokens[:num_rows, None], drafts_BK), 1)
        x = self.weights.embedding.rows(ids_BT.flatten())
        for layer, lines in zip(self.weights.layers, self._open(num_rows), strict=False):  # behind: the modules'
            x = self._run_block(x, layer, lines, block)
        hidden = self.weights.norm.of(x)
        return self._logits(hidden).view(num_rows, K + 1, -1), hidden.view(num_rows, K + 1, -1)

    def _extend(
        self, tokens_BT: Tensor, logprobs_BT: Tensor, kept_B: Tensor, hidden_BTD: Tensor, fine_B: Tensor
    ) -> list[tuple[int, int]]:
        """Appends what each row keeps, up to the first token that somebody must look at; later ones come again."""
        num_rows, T = tokens_BT.shape
        K, rows_B, steps_T = self._ahead, self._slots[:num_rows], self._columns[:T]
        counts_B, positions_B, bases_B = self._counts[:num_rows], self._positions[:num_rows], self._bases[:num_rows]
        bits_BT = (counts_B[:, None] + steps_T + 1 >= self._limits[:num_rows, None]).to(torch.uint8).mul_(FULL)
        bits_BT |= self._flags_V[tokens_BT]
        marked_BT = bits_BT != 0
        marked_BT[rows_B, kept_B] = True  # the last that may be kept
        new_B = marked_BT.to(torch.uint8).argmax(1) + 1
        self._steps += 1
        self._tally[0] += num_rows
        self._tally[1] += new_B.sum()
        self._tally[2:] += (steps_T[:-1] < torch.minimum(kept_B, new_B)[:, None]).sum(0)

        self._out_tokens[rows_B[:, None], counts_B[:, None] + steps_T] = tokens_BT
        self._out_logprobs[rows_B[:, None], counts_B[:, None] + steps_T] = logprobs_BT
        # The window moves on: the last K - 1 of its known places stay, then comes what was read now.
        stay_BX = (positions_B - bases_B)[:, None] - K + 1 + self._columns[: K - 1]
        self._next[:num_rows, : 2 * K] = torch.cat((self._next[:num_rows].gather(1, stay_BX), tokens_BT), 1)
        self._hidden[:num_rows] = torch.cat((self._hidden[rows_B[:, None], stay_BX], hidden_BTD), 1)
        self._bases[:num_rows] = positions_B + 1 - K
        self._tokens[:num_rows] = tokens_BT[rows_B, new_B - 1]
        self._positions[:num_rows] += new_B
        self._counts[:num_rows] += new_B

        finite_B = (logprobs_BT.isfinite() | (steps_T >= new_B[:, None])).all(1) & fine_B
        bits_B = bits_BT[rows_B, new_B - 1] | finite_B.logical_not().to(torch.uint8).mul_(BROKEN)
        reported = bits_B.nonzero().squeeze(-1)
        return list(zip(reported.tolist(), bits_B[reported].tolist(), strict=True)) if len(reported) else []

    def _join(self, next_ids: Tensor, x: Tensor, module: Module) -> Tensor:
        """What a module's layer reads, ``[B * T, D]``."""
        embedding = module.embedding_norm.of(self.weights.embedding.rows(next_ids))
        return module.join.of(torch.cat((embedding, module.hidden_norm.of(x)), 1))

    def _block(self, positions_BT: Tensor, columns_BT: Tensor) -> _Block:
        """Tokens at ``positions``, each seeing the columns up to its own; what it leaves is kept at ``columns``."""
        heads, num_columns = self._cache.heads, self._arena.shape[-2]
        mask_BTS = torch.zeros(*positions_BT.shape, num_columns, dtype=self._dtype, device=self._device)
        mask_BTS.masked_fill_(self._columns[:num_columns] > positions_BT[..., None], float("-inf"))
        write_at = self._starts[: len(columns_BT), None] + columns_BT[..., None, None]
        hidden = mask_BTS.repeat_interleave(self._config.num_attention_heads // heads, 1).repeat_interleave(heads, 0)
        return _Block(self._rotation[positions_BT.flatten()], write_at.flatten(0, 1), hidden)

    def _run_block(self, x: Tensor, layer: Layer, lines: Lines, block: _Block) -> Tensor:
        """``x`` [B * T, D], a few tokens of each row, through one layer and its part of the arena."""
        x = layer.attention.decode(x, block.rotation, lines, block.write_at, block.hidden)
        return layer.feed.forward(x)


@dataclass(frozen=True, slots=True)
class _Block:
    """A few tokens of each row, laid out once for all layers."""

    rotation: Tensor
    write_at: Tensor  # [B * T, parts, heads] rows of a layer's arena
    hidden: Tensor  # [B * heads, T * group, S]: 0 where a token may look, -inf elsewhere
