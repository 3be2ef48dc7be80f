"""The live rows' state: what each has sampled, with which seed, and when somebody must look at it.

B rows, V vocabulary. A step is the same few tensor operations whatever the number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aha.model.config import ModelConfig
from aha.rollout.engine import SamplingParams

# Why a row is reported, as bits.
ENDED = 1
SUSPECT = 2  # the token may complete a stop string
FULL = 4
BROKEN = 8  # the logits are not finite, so the token means nothing
STOPPED = 16  # the token's own text has a stop string


class LiveRows:
    """State of rows by slot, and the end of a step: recording what was sampled.

    A step may write ``ahead`` tokens more than a row keeps.
    """

    def __init__(self, config: ModelConfig, *, dtype: torch.dtype, device: torch.device, ahead: int = 0) -> None:
        self._config = config
        self._ahead = ahead
        self._dtype = dtype
        self._device = device

    @property
    def bytes_per_number(self) -> int:
        """Of the cache."""
        return self._dtype.itemsize

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
        longest = max(counts)
        tokens, logprobs = self._out_tokens[at, :longest].tolist(), self._out_logprobs[at, :longest].tolist()
        return [(t[:count], p[:count]) for t, p, count in zip(tokens, logprobs, counts, strict=True)]

    def _begin_rows(
        self, num_slots: int, params: SamplingParams, suspects: Sequence[int], stops: Sequence[int]
    ) -> None:
        device, vocab = self._device, self._config.vocab_size
        self._params = params
        self._tokens = torch.zeros(num_slots, dtype=torch.int64, device=device)
        self._positions = torch.zeros_like(self._tokens)
        self._counts = torch.zeros_like(self._tokens)
        self._seeds = torch.zeros_like(self._tokens)
        self._limits = torch.zeros_like(self._tokens)
        num_out = params.max_new_tokens + self._ahead
        self._out_tokens = torch.zeros(num_slots, num_out, dtype=torch.int64, device=device)
        self._out_logprobs = torch.zeros(num_slots, num_out, device=device)
        flags = torch.zeros(vocab, dtype=torch.uint8)
        flags[list(suspects)] = SUSPECT
        flags[list(stops)] |= STOPPED
        flags[[i for i in params.end_token_ids if i < vocab]] |= ENDED
        self._flags_V = flags.to(device)
        self._slots = torch.arange(num_slots, device=device)

    def _row_states(self) -> tuple[Tensor, ...]:
        rows = (self._tokens, self._positions, self._counts, self._seeds, self._limits)
        return (*rows, self._out_tokens, self._out_logprobs)

    def _record(self, at: slice | Tensor, tokens_B: Tensor, logprobs_B: Tensor) -> list[tuple[int, int]]:
        """Appends a token to each of the rows ``at``; returns those that somebody must look at, with their bits."""
        rows_B, counts_B = self._slots[at], self._counts[at]
        self._out_tokens[rows_B, counts_B] = tokens_B
        self._out_logprobs[rows_B, counts_B] = logprobs_B
        self._tokens[at] = tokens_B
        self._positions[at] += 1
        counts_B += 1
        self._counts[at] = counts_B
        bits = self._bits_of(tokens_B, logprobs_B, counts_B >= self._limits[at]).tolist()
        return [(slot, own) for slot, own in zip(rows_B.tolist(), bits, strict=True) if own] if any(bits) else []

    def _bits_of(self, tokens_B: Tensor, logprobs_B: Tensor, full_B: Tensor) -> Tensor:
        """Why somebody must look at each row, uint8 ``[B]``; 0 where nobody must."""
        bits_B = self._flags_V[tokens_B]
        return bits_B.add_(full_B, alpha=FULL).add_(logprobs_B.isnan(), alpha=BROKEN)

    def _tensor(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self._device)
