"""The one file that touches the device: prefill, the decode step over all live rows, key/value arena and row state.

B rows, T prompt tokens, S cache columns, V vocabulary, D width, N query heads, K key/value heads, H head width. Every
row has its own columns of the arena, from 0, prompt first. A step is the same few tensor operations whatever the number
of rows; Python looks at single rows only when ``step`` reports them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aha.model.config import ModelConfig
from aha.model.rope import compute_rotation
from aha.rollout.engine import SamplingParams
from aha.rollout.native.memory import PREFILL_TOKENS
from aha.rollout.native.sampler import sample
from aha.rollout.native.weights import LayerWeights, Weights

# Why a row is reported, as bits.
ENDED = 1
SUSPECT = 2  # the token may complete a stop string
FULL = 4
BROKEN = 8  # the logits are not finite, so the token means nothing

_SCORE_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prompt read once: keys and values ``[layers, 2, K, T, H]`` and the float32 logits ``[V]`` after its end."""

    keys_values: Tensor
    logits_V: Tensor


class Runner:
    """Weights, arena and live rows on one device. Arguments are trusted: ``NativeEngine`` checks them."""

    def __init__(self, config: ModelConfig, *, dtype: torch.dtype, device: torch.device) -> None:
        self._config = config
        self._dtype = dtype
        self._device = device
        self.weights = Weights(config, dtype=dtype, device=device)
        self._memory = torch.zeros(0, dtype=dtype, device=device)
        self._rotation = torch.zeros(0, 1, config.head_dim // 2, dtype=torch.complex64, device=device)

    @torch.inference_mode()
    def begin(self, num_slots: int, num_columns: int, params: SamplingParams, suspects: Sequence[int]) -> None:
        """Makes room for ``num_slots`` rows of ``num_columns`` tokens; memory of earlier calls is used again."""
        config, device = self._config, self._device
        shape = (config.num_hidden_layers, 2, num_slots, config.num_key_value_heads, num_columns, config.head_dim)
        size = torch.Size(shape).numel()
        if self._memory.numel() < size:
            # Zeros, not garbage: what a masked column holds is multiplied by 0 and must be finite.
            self._memory = torch.zeros(0, dtype=self._dtype, device=device)
            self._memory = torch.zeros(size, dtype=self._dtype, device=device)
        self._arena = self._memory[:size].view(shape)
        self._params = params
        self._tokens = torch.zeros(num_slots, dtype=torch.int64, device=device)
        self._positions = torch.zeros_like(self._tokens)
        self._counts = torch.zeros_like(self._tokens)
        self._seeds = torch.zeros_like(self._tokens)
        self._limits = torch.zeros_like(self._tokens)
        self._out_tokens = torch.zeros(num_slots, params.max_new_tokens, dtype=torch.int64, device=device)
        self._out_logprobs = torch.zeros(num_slots, params.max_new_tokens, device=device)
        flags = torch.zeros(config.vocab_size, dtype=torch.uint8)
        flags[list(suspects)] = SUSPECT
        flags[[i for i in params.end_token_ids if i < config.vocab_size]] |= ENDED
        self._flags_V = flags.to(device)
        self._slots = torch.arange(num_slots, device=device)
        self._columns = torch.arange(num_columns, device=device)
        # Where the keys, then the values, of each row's column 0 lie in a layer seen as rows of H numbers.
        heads = config.num_key_value_heads
        parts = torch.arange(2, device=device)[:, None] * num_slots * heads + torch.arange(heads, device=device)
        self._starts = (self._slots[:, None] * heads + parts.flatten()) * num_columns
        self._extend_rotation(num_columns)

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[Prefix]:
        """Reads each prompt once. Prompts are padded to the longest of a batch, so callers sort them by length."""
        prefixes = []
        for batch in _batches(prompts):
            keys_values: list[Tensor] = []
            hidden_BTD, last_B = self._forward(batch, keys_values)
            logits_BV = self._logits(hidden_BTD[torch.arange(len(batch), device=self._device), last_B])
            stacked = torch.stack(keys_values)  # [layers, 2, B, K, T, H]
            prefixes += [Prefix(stacked[:, :, b, :, : len(ids)], logits_BV[b]) for b, ids in enumerate(batch)]
        return prefixes

    @torch.inference_mode()
    def extend(self, pasts: Sequence[Tensor], tails: Sequence[Sequence[int]]) -> list[Prefix]:
        """Reads each tail behind what was read before it, keys and values ``[layers, 2, K, S, H]``."""
        rows = iter(pasts)
        prefixes = []
        for batch in _batches(tails):
            behind = [next(rows) for _ in batch]
            keys_values: list[Tensor] = []
            hidden_BTD, last_B = self._forward(batch, keys_values, behind)
            logits_BV = self._logits(hidden_BTD[torch.arange(len(batch), device=self._device), last_B])
            stacked = torch.stack(keys_values)
            prefixes += [
                Prefix(torch.cat((past, stacked[:, :, b, :, : len(ids)]), -2), logits_BV[b])
                for b, (past, ids) in enumerate(zip(behind, batch, strict=True))
            ]
        return prefixes

    @torch.inference_mode()
    def keep(self, slots: Sequence[int]) -> list[Tensor]:
        """A copy of the keys and values of each row: its prompt and all it has sampled but the last token."""
        lengths = self._positions[self._tensor(slots)].tolist()
        return [self._arena[:, :, slot, :, :length].clone() for slot, length in zip(slots, lengths, strict=True)]

    @torch.inference_mode()
    def score(self, sequences: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
        """Log-probability at temperature 1 of every token but the first, given those before it."""
        self._extend_rotation(max(map(len, sequences), default=0))
        scores: list[tuple[float, ...]] = []
        for batch in _batches(sequences):
            hidden_BTD, _ = self._forward(batch, None)
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
    def admit(
        self, slots: Sequence[int], prefixes: Sequence[Prefix], seeds: Sequence[int], limits: Sequence[int]
    ) -> list[tuple[int, int]]:
        """Gives each slot a row behind its prompt and samples its first token. Returns what ``step`` returns."""
        for slot, prefix in zip(slots, prefixes, strict=True):
            self._arena[:, :, slot, :, : prefix.keys_values.shape[-2]] = prefix.keys_values
        at = self._tensor(slots)
        self._seeds[at] = self._tensor(seeds)
        self._limits[at] = self._tensor(limits)
        # One less: recording the first token moves on to the position at which that token is fed.
        self._positions[at] = self._tensor([prefix.keys_values.shape[-2] for prefix in prefixes]) - 1
        self._counts[at] = 0
        return self._record(torch.stack([prefix.logits_V for prefix in prefixes]), at)

    @torch.inference_mode()
    def step(self, num_live: int, num_columns: int) -> list[tuple[int, int]]:
        """Feeds the last token of rows ``0 .. num_live - 1`` and samples the next; ``num_columns`` fit the longest.

        Returns (slot, bits of ENDED, SUSPECT, FULL, BROKEN) of the rows that somebody must look at.
        """
        logits_BV = self._decode(num_live, num_columns)
        return self._record(logits_BV, self._slots[:num_live])

    @torch.inference_mode()
    def move(self, moves: Sequence[tuple[int, int]]) -> None:
        """Moves rows, with their cache, from slot to slot."""
        if not moves:
            return
        sources, targets = (self._tensor(column) for column in zip(*moves, strict=True))
        lengths = self._positions[sources].tolist()
        for (source, target), length in zip(moves, lengths, strict=True):
            self._arena[:, :, target, :, :length] = self._arena[:, :, source, :, :length]
        rows = (self._tokens, self._positions, self._counts, self._seeds, self._limits)
        for state in (*rows, self._out_tokens, self._out_logprobs):
            state[targets] = state[sources]

    @torch.inference_mode()
    def tail(self, slots: Sequence[int], width: int) -> list[list[int]]:
        """The last ``width`` tokens (or fewer) that each of the rows has sampled."""
        at = self._tensor(slots)
        counts = self._counts[at]
        index = (counts[:, None] - width + torch.arange(width, device=self._device)).clamp_min(0)
        rows = self._out_tokens[at[:, None], index].tolist()
        return [row[max(0, width - count) :] for row, count in zip(rows, counts.tolist(), strict=True)]

    @torch.inference_mode()
    def collect(self, slots: Sequence[int]) -> list[tuple[list[int], list[float]]]:
        """Tokens and log-probabilities that each of the rows has sampled."""
        at = self._tensor(slots)
        counts = self._counts[at].tolist()
        tokens, logprobs = self._out_tokens[at].tolist(), self._out_logprobs[at].tolist()
        return [(t[:count], p[:count]) for t, p, count in zip(tokens, logprobs, counts, strict=True)]

    @torch.inference_mode()
    def forget(self) -> None:
        """Clears the arena: a NaN in it would reach later rows through columns that are masked."""
        self._memory.zero_()

    def load(self, decoder: nn.Module) -> None:
        """Copies the decoder's weights."""
        self.weights.copy_from(decoder)

    def _record(self, logits_BV: Tensor, at: Tensor) -> list[tuple[int, int]]:
        params = self._params
        counts_B = self._counts[at]
        tokens_B, logprobs_B = sample(
            logits_BV,
            self._seeds[at],
            counts_B,
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
        )
        self._out_tokens[at, counts_B] = tokens_B
        self._out_logprobs[at, counts_B] = logprobs_B
        self._tokens[at] = tokens_B
        self._positions[at] += 1
        counts_B += 1
        self._counts[at] = counts_B
        bits_B = self._flags_V[tokens_B] | (counts_B >= self._limits[at]).to(torch.uint8).mul_(FULL)
        bits_B |= logprobs_B.isfinite().logical_not_().to(torch.uint8).mul_(BROKEN)
        reported = bits_B.nonzero().squeeze(-1)
        if not len(reported):
            return []
        return list(zip(at[reported].tolist(), bits_B[reported].tolist(), strict=True))

    def _decode(self, num_rows: int, num_columns: int) -> Tensor:
        config = self._config
        N, K, H = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        eps, scale = config.rms_norm_eps, config.head_dim**-0.5
        positions_B = self._positions[:num_rows]
        rotation_B = self._rotation[positions_B]
        write_at = self._starts[:num_rows] + positions_B[:, None]
        mask_BS = torch.zeros(num_rows, num_columns, dtype=self._dtype, device=self._device)
        mask_BS.masked_fill_(self._columns[:num_columns] > positions_B[:, None], float("-inf"))
        mask = mask_BS.repeat_interleave(K, 0).unsqueeze(1) if K > 1 else mask_BS.unsqueeze(1)
        x_BD = F.embedding(self._tokens[:num_rows], self.weights.embedding_VD)
        for layer, arena in zip(self.weights.layers, self._arena, strict=True):
            qkv = self._queries_keys_values(x_BD, layer, rotation_B)
            arena.view(-1, H).index_put_((write_at,), qkv[:, N * H :].view(num_rows, 2 * K, H))
            queries = qkv[:, : N * H].reshape(num_rows * K, N // K, H)
            keys, values = arena[:, :num_rows].flatten(1, 2)[:, :, :num_columns]
            weights = torch.baddbmm(mask, queries, keys.transpose(1, 2), alpha=scale)
            weights = torch.softmax(weights, -1, dtype=torch.float32).to(self._dtype)
            read = torch.bmm(weights, values).view(num_rows, N * H)
            x_BD = self._add_out(x_BD, read, layer)
            x_BD = _feed_forward(x_BD, layer, eps)
        return self._logits(F.rms_norm(x_BD, (config.hidden_size,), self.weights.norm_D, eps))

    def _forward(
        self,
        prompts: Sequence[Sequence[int]],
        keys_values: list[Tensor] | None,
        pasts: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Hidden states ``[B, T, D]`` after the final norm, and last indices; appends ``[2, B, K, T, H]`` a layer.

        ``pasts``: each row's keys and values ``[layers, 2, K, S, H]`` of what stands before it.
        """
        config = self._config
        N, K, H = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        B, T = len(prompts), max(map(len, prompts))
        ids_BT = torch.zeros(B, T, dtype=torch.int64)
        for b, ids in enumerate(prompts):
            ids_BT[b, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
        rotation, mask, behind = self._rotation[:T].repeat(B, 1, 1), None, None
        if pasts is not None:
            rotation, mask, behind = self._place(pasts, T)
        x = F.embedding(ids_BT.to(self._device).view(-1), self.weights.embedding_VD)
        for index, layer in enumerate(self.weights.layers):
            qkv = self._queries_keys_values(x, layer, rotation)
            heads = qkv.view(B, T, N + 2 * K, H).transpose(1, 2)
            queries, keys, values = torch.split(heads, [N, K, K], 1)
            if keys_values is not None:
                keys_values.append(torch.stack((keys, values)))
            if behind is not None:
                keys, values = torch.cat((behind[index], torch.stack((keys, values))), -2)
            read = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=N != K
            )
            x = self._add_out(x, read.transpose(1, 2).reshape(B * T, N * H), layer)
            x = _feed_forward(x, layer, config.rms_norm_eps)
        hidden = F.rms_norm(x, (config.hidden_size,), self.weights.norm_D, config.rms_norm_eps)
        return hidden.view(B, T, -1), self._tensor([len(ids) - 1 for ids in prompts])

    def _place(self, pasts: Sequence[Tensor], T: int) -> tuple[Tensor, Tensor, Tensor]:
        """For T tokens behind each past: their rotation, what they see ``[B, 1, T, S + T]``, and the pasts padded to
        ``[layers, 2, B, K, S, H]``."""
        lengths_B = self._tensor([past.shape[-2] for past in pasts])
        S = int(lengths_B.max())
        layers, two, K, _, H = pasts[0].shape
        behind = torch.zeros(layers, two, len(pasts), K, S, H, dtype=self._dtype, device=self._device)
        for b, past in enumerate(pasts):
            behind[:, :, b, :, : past.shape[-2]] = past
        steps_T = torch.arange(T, device=self._device)
        self._extend_rotation(S + T)
        rotation = self._rotation[(lengths_B[:, None] + steps_T).flatten()]
        sees_past = torch.arange(S, device=self._device) < lengths_B[:, None]
        sees_own = steps_T <= steps_T[:, None]
        mask = torch.cat((sees_past[:, None].expand(-1, T, -1), sees_own.expand(len(pasts), -1, -1)), -1)
        return rotation, mask[:, None], behind

    def _queries_keys_values(self, x_BD: Tensor, layer: LayerWeights, rotation_B: Tensor) -> Tensor:
        """``[B, (N + 2K) H]``: queries and keys normalised where the architecture does, and rotated."""
        config = self._config
        num_heads = config.num_attention_heads + 2 * config.num_key_value_heads
        num_rotated, H = num_heads - config.num_key_value_heads, config.head_dim
        x_BD = F.rms_norm(x_BD, (config.hidden_size,), layer.attention_norm_D, config.rms_norm_eps)
        qkv = torch.mm(x_BD, layer.qkv) if layer.qkv_bias is None else torch.addmm(layer.qkv_bias, x_BD, layer.qkv)
        rotated = qkv.view(-1, num_heads, H)[:, :num_rotated]
        if layer.qk_norm is not None:
            rotated.copy_(F.rms_norm(rotated, (H,), None, config.rms_norm_eps).mul_(layer.qk_norm))
        if qkv.dtype == torch.float32:
            torch.view_as_complex(qkv.view(-1, num_heads, H // 2, 2)[:, :num_rotated]).mul_(rotation_B)
        else:
            turned = torch.view_as_complex(rotated.float().view(-1, num_rotated, H // 2, 2)).mul_(rotation_B)
            rotated.copy_(torch.view_as_real(turned).flatten(-2))
        return qkv

    def _add_out(self, x_BD: Tensor, read: Tensor, layer: LayerWeights) -> Tensor:
        x_BD = torch.addmm(x_BD, read, layer.out)
        return x_BD if layer.out_bias is None else x_BD.add_(layer.out_bias)

    def _logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.weights.head_VD).float()

    def _extend_rotation(self, length: int) -> None:
        if len(self._rotation) < length:
            half = self._config.head_dim // 2
            cos, sin = compute_rotation(
                torch.arange(length, device=self._device), head_dim=2 * half, theta=self._config.rope_theta
            )
            self._rotation = torch.complex(cos[..., half:].contiguous(), sin[..., half:].contiguous())

    def _tensor(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self._device)


def _feed_forward(x_BD: Tensor, layer: LayerWeights, eps: float) -> Tensor:
    gate, up = torch.mm(F.rms_norm(x_BD, x_BD.shape[1:], layer.feed_norm_D, eps), layer.gate_up).chunk(2, 1)
    return torch.addmm(x_BD, F.silu(gate).mul_(up), layer.down)


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
