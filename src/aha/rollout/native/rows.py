"""The live rows' state: what each has sampled, with which seed, and when somebody must look at it.

B rows, V vocabulary. A step is the same few tensor operations whatever the number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aha.model.config import ModelConfig
from aha.rollout.engine import SamplingParams
from aha.rollout.native.sampler import sample

# Why a row is reported, as bits.
ENDED = 1
SUSPECT = 2  # the token may complete a stop string
FULL = 4
BROKEN = 8  # the logits are not finite, so the token means nothing
STOPPED = 16  # the token's own text has a stop string


class LiveRows:
    """State of rows by slot, and the end of a step: sampling, and recording what was sampled.

    A step may write ``ahead`` tokens more than a row keeps.
    """

    def __init__(self, config: ModelConfig, *, dtype: torch.dtype, device: torch.device, ahead: int = 0) -> None:
        self._config = config
        self._ahead = ahead
        self._dtype = dtype
        self._device = device

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

    def _record(self, logits_BV: Tensor, at: Tensor) -> list[tuple[int, int]]:
        """Samples the next token of the rows ``at``; returns those that somebody must look at, with their bits."""
        counts_B = self._counts[at]
        tokens_B, logprobs_B = self._sample(logits_BV, self._seeds[at], counts_B)
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

    def _sample(self, logits_BV: Tensor, seeds_B: Tensor, index_B: Tensor) -> tuple[Tensor, Tensor]:
        params = self._params
        return sample(
            logits_BV,
            seeds_B,
            index_B,
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
        )

    def _tensor(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self._device)
