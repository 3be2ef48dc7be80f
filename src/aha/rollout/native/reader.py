"""Reads texts for what a process reward model says at each of their tokens, and none of it twice.

The sampler's runners without sampling: on a CPU the compiled kernels where they know the model, else PyTorch.
T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aha.model.heads import ProcessRewardModel
from aha.rollout.native.engine import build_runner
from aha.rollout.native.prefixes import Kept, PrefixCache, hash_beginnings

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Read:
    """A text's cache, the hidden state at each of its tokens, and how unlikely each was, 0 for the first."""

    kept: Kept
    states_TD: Tensor
    surprise_T: Tensor

    @property
    def length(self) -> int:
        return self.kept.length

    @property
    def nbytes(self) -> int:
        return self.kept.nbytes + self.states_TD.nbytes + self.surprise_T.nbytes

    def first(self, length: int) -> _Read:
        return _Read(self.kept.first(length), self.states_TD[:length], self.surprise_T[:length])


class Reader:
    """It has a copy of the weights of the model's layers.

    Up to ``prefix_bytes`` of what was read outlives a call. ``read_tokens`` counts what was read since it was made.
    """

    def __init__(self, model: ProcessRewardModel, *, prefix_bytes: int) -> None:
        like = model.score
        self._model = model
        self._runner: Any = build_runner(model.decoder.config, dtype=like.dtype, device=like.device, speculate=0)
        self._runner.load(model.decoder)
        self._texts = PrefixCache(prefix_bytes)
        self.read_tokens = 0

    @torch.inference_mode()
    def read(self, texts: Sequence[tuple[Ids, Ids]]) -> list[Tensor]:
        """The logit at every token of each (prompt, completion), a completion's alone, ``[T]``.

        Prompts that several texts share are read once, texts that continue one which was read, from there on.
        """
        prompts = {prompt: hash_beginnings(prompt) for prompt, _ in texts}
        self._read([(ids, hashes, len(ids)) for ids, hashes in prompts.items() if not self._texts.has(ids, hashes)])
        wanted = [(prompt + ids, hash_beginnings(ids, prompts[prompt]), len(prompt)) for prompt, ids in texts]
        logits = []
        for own, (prompt, _) in zip(self._read(wanted), texts, strict=True):
            surprise_T = own.surprise_T[len(prompt) :]
            worst_T, total_T = surprise_T.cummax(0).values, surprise_T.cumsum(0)
            logits.append(self._model.judge(own.states_TD[len(prompt) :], worst_T, total_T))
        return logits

    def _read(self, texts: Sequence[tuple[Ids, list[int], int]]) -> list[_Read]:
        """Texts with the numbers of their beginnings, and how many of their tokens are a prompt's."""
        if not texts:
            return []
        known: list[Any] = [self._texts.longest(ids, hashes) for ids, hashes, _ in texts]
        tails = [ids[0 if past is None else past.length :] for (ids, _, _), past in zip(texts, known, strict=True)]
        self.read_tokens += sum(map(len, tails))
        read = self._runner.read_states([None if past is None else past.kept for past in known], tails)
        states = [
            own_TD if past is None else torch.cat((past.states_TD, own_TD))
            for past, (_, own_TD) in zip(known, read, strict=True)
        ]
        firsts = [max(len(ids) - len(tail), start) for (ids, _, start), tail in zip(texts, tails, strict=True)]
        before = [states_TD[first - 1 : -1] for states_TD, first in zip(states, firsts, strict=True)]
        targets = [token for (ids, _, _), first in zip(texts, firsts, strict=True) for token in ids[first:]]
        said = self._model.surprise(torch.cat(before), torch.tensor(targets, device=before[0].device))
        found = []
        for (ids, hashes, start), past, (kept, _), states_TD, own_T in zip(
            texts, known, read, states, torch.split(said, list(map(len, before))), strict=True
        ):
            surprise_T = said.new_zeros(len(ids))
            if past is not None:
                surprise_T[: past.length] = past.surprise_T
            surprise_T[len(ids) - len(own_T) :] = own_T
            found.append(_Read(kept, states_TD.clone() if past is None else states_TD, surprise_T))
            self._texts.store(ids, hashes, found[-1], behind=start)
        return found
