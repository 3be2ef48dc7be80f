"""What an engine that samples is: token ids in; token ids, log-probabilities, finish reason and policy version out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from aha.errors import SettingError
from aha.records import Completion


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample and when to stop: ``SamplingParams(256, temperature=0.6, top_p=0.95, end_token_ids=(2,))``.

    ``temperature`` 0 takes the most likely token. ``top_k`` 0 and ``top_p`` 1 keep the whole vocabulary; both together
    apply top-k first. A sequence ends at any of ``end_token_ids`` or as soon as its text contains one of ``stop``.
    Raises ``SettingError`` for values that cannot be.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    end_token_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checks = (
            ("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1, "at least 1"),
            ("temperature", self.temperature, 0.0 <= self.temperature < float("inf"), "0 (greedy) or more, and finite"),
            ("top_p", self.top_p, 0.0 < self.top_p <= 1.0, "over 0 and at most 1"),
            ("top_k", self.top_k, self.top_k >= 0, "0 (off) or more"),
            ("end_token_ids", self.end_token_ids, all(i >= 0 for i in self.end_token_ids), "ids from 0"),
            ("stop", self.stop, not isinstance(self.stop, str) and all(self.stop), "a tuple of non-empty strings"),
        )
        for name, value, fine, rule in checks:
            if not fine:
                raise SettingError(f"SamplingParams.{name} is {value!r}; it must be {rule}")


class Engine(Protocol):
    """Samples completions with one version of the weights at a time."""

    @property
    def policy_version(self) -> int:
        """Version of the weights in use, as given to ``load_weights``."""
        ...

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        limits: Sequence[Sequence[int]] | None = None,
        done: Callable[[int, list[Completion]], None] | None = None,
    ) -> list[list[Completion]]:
        """``len(seeds[p])`` completions of every prompt ``p``, in order; each depends on its prompt and seed alone.

        ``limits``, shaped like ``seeds``, gives each sequence a maximum of new tokens of its own, at most
        ``params.max_new_tokens``. ``done`` is told the number and the completions of each prompt as soon as it has all
        of them.
        """
        ...

    def load_weights(self, decoder: nn.Module, version: int) -> None:
        """Copies the weights of ``decoder``; everything sampled from now on carries ``version``."""
        ...
