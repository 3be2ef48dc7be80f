"""Reads texts for what a head says at each of their tokens; what was read of one before is not read again.

The sampler's runners without sampling: on a CPU the compiled kernels where they know the model, else PyTorch. T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aha.model.config import ModelConfig
from aha.rollout.native.engine import build_runner
from aha.rollout.native.prefixes import Kept, PrefixCache, hash_beginnings

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Read:
    """A text's cache, and what the head says at each of its tokens."""

    kept: Kept
    values_T: Tensor

    @property
    def length(self) -> int:
        return self.kept.length

    @property
    def nbytes(self) -> int:
        return self.kept.nbytes + self.values_T.nbytes

    def first(self, length: int) -> _Read:
        return _Read(self.kept.first(length), self.values_T[:length])


class Reader:
    """A decoder with a scalar head ``score [1, D]`` and a ``bias [1]``; it has a copy of the decoder's weights.

    Up to ``prefix_bytes`` of what was read outlives a call. ``read_tokens`` counts what was read since it was made.
    """

    def __init__(
        self, config: ModelConfig, decoder: nn.Module, score: Tensor, bias: Tensor, *, prefix_bytes: int
    ) -> None:
        self._runner: Any = build_runner(config, dtype=score.dtype, device=score.device, speculate=0)
        self._runner.load(decoder)
        self._score_D, self._bias = score.detach().float().flatten(), bias.detach().float()
        self._texts = PrefixCache(prefix_bytes)
        self.read_tokens = 0

    def read(self, texts: Sequence[tuple[Ids, Ids]]) -> list[Tensor]:
        """The head's value at every token of each (prompt, completion), a completion's alone, float32 ``[T]``.

        Prompts that several texts share are read once, texts that continue one which was read, from there on.
        """
        prompts = {prompt: hash_beginnings(prompt) for prompt, _ in texts}
        self._read([(prompt, hashes, 0) for prompt, hashes in prompts.items() if not self._texts.has(prompt, hashes)])
        wanted = [(prompt + ids, hash_beginnings(ids, prompts[prompt]), len(prompt)) for prompt, ids in texts]
        values = self._read(wanted)
        return [own[len(prompt) :] for own, (prompt, _) in zip(values, texts, strict=True)]

    @torch.inference_mode()
    def _read(self, texts: Sequence[tuple[Ids, list[int], int]]) -> list[Tensor]:
        """Texts with the numbers of their beginnings, and how many tokens of them are a prompt's."""
        known: list[Any] = [self._texts.longest(ids, hashes) for ids, hashes, _ in texts]
        tails = [ids[0 if past is None else past.length :] for (ids, _, _), past in zip(texts, known, strict=True)]
        self.read_tokens += sum(map(len, tails))
        if not texts:
            return []
        read = self._runner.read_states([None if past is None else past.kept for past in known], tails)
        values = torch.cat([states_TD for _, states_TD in read]).float() @ self._score_D + self._bias
        new = torch.split(values, [len(tail) for tail in tails])
        found = []
        for (ids, hashes, behind), past, (kept, _), own in zip(texts, known, read, new, strict=True):
            whole = own.clone() if past is None else torch.cat((past.values_T, own))
            self._texts.store(ids, hashes, _Read(kept, whole), behind=behind)
            found.append(whole)
        return found
