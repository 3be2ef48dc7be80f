"""One thread owns the model: it takes all requests that wait and have the same way of sampling, and answers them as one
batch. Requests that come meanwhile form the next one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from aha.records import Completion
from aha.rollout.engine import Engine, SamplingParams
from aha.rollout.native.engine import NativeEngine
from aha.rollout.sync import sync_weights
from aha.stages.models import Policy, cache_bytes


@dataclass(frozen=True)
class Scored:
    """Log-probabilities at temperature 1 of all tokens of a text but the first, and the likeliest ones at each place:
    ``Scored((-0.1, -2.0), (((7, -0.1),), ((9, -0.3),)))``."""

    logprobs: tuple[float, ...]
    top: tuple[tuple[tuple[int, float], ...], ...]


@dataclass
class _Sampling:
    prompt: Sequence[int]
    seeds: Sequence[int]
    params: SamplingParams
    future: Future[list[Completion]] = field(default_factory=Future)


@dataclass
class _Calling:
    function: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)


class Batcher:
    """``Batcher(policy, engine).sample(prompt, seeds, params)`` gives a future; ``waiting`` counts what is not answered
    yet."""

    def __init__(self, policy: Policy, engine: Engine) -> None:
        self._policy, self._engine = policy, engine
        self._queue: queue.SimpleQueue[_Sampling | _Calling | None] = queue.SimpleQueue()
        self._held: list[_Sampling] = []
        self.waiting = 0
        self._thread = threading.Thread(target=self._run, daemon=True, name="model")
        self._thread.start()

    def sample(self, prompt: Sequence[int], seeds: Sequence[int], params: SamplingParams) -> Future[list[Completion]]:
        """A completion for each seed."""
        work = _Sampling(prompt, seeds, params)
        self._put(work)
        return work.future

    def score(self, ids: Sequence[int], *, top: int) -> Future[Scored]:
        """What the model gives each token of a text."""
        work = _Calling(lambda: score_text(self._policy, ids, top=top))
        self._put(work)
        return work.future

    def close(self) -> None:
        """Answers what waits and ends the thread."""
        self._queue.put(None)
        self._thread.join()

    def _put(self, work: _Sampling | _Calling) -> None:
        self.waiting += 1
        cast("Future[Any]", work.future).add_done_callback(lambda _: self._leave())
        self._queue.put(work)

    def _leave(self) -> None:
        self.waiting -= 1

    def _run(self) -> None:
        while True:
            work = self._held.pop(0) if self._held else self._queue.get()
            if work is None:
                return
            if isinstance(work, _Calling):
                _settle(work.future, work.function)
                continue
            batch = [work, *self._same_as(work)]
            try:
                found = self._answer(batch)
            except Exception:  # one of them cannot be answered: each by itself, so that the others can
                for one in batch:
                    _settle(one.future, lambda one=one: self._answer([one])[0])  # type: ignore[misc]
            else:
                for one, completions in zip(batch, found, strict=True):
                    one.future.set_result(completions)

    def _same_as(self, first: _Sampling) -> list[_Sampling]:
        """Those that wait and differ from ``first`` in length at most; others are held for the next batches."""
        while not self._queue.empty():
            work = self._queue.get()
            if not isinstance(work, _Sampling):
                self._queue.put(work)  # behind what has come since: it waits for one batch more
                break
            self._held.append(work)
        alike = [work for work in self._held if _way(work) == _way(first)]
        self._held = [work for work in self._held if _way(work) != _way(first)]
        return alike

    def _answer(self, batch: Sequence[_Sampling]) -> list[list[Completion]]:
        most = max(work.params.max_new_tokens for work in batch)
        limits = [[work.params.max_new_tokens] * len(work.seeds) for work in batch]
        params = replace(batch[0].params, max_new_tokens=most)
        return self._engine.generate(
            [work.prompt for work in batch], [work.seeds for work in batch], params, limits=limits
        )


def build_batcher(policy: Policy) -> Batcher:
    """With an engine that holds the policy's weights, proven, and knows stop strings."""
    head = policy.decoder.head_weight
    engine = NativeEngine(
        policy.config,
        cache_bytes=cache_bytes(head.device),
        detokenize=policy.tokenizer.decode,
        dtype=policy.sampling_dtype,
        device=head.device,
    )
    sync_weights(engine, policy.decoder, version=0)
    return Batcher(policy, engine)


def score_text(policy: Policy, ids: Sequence[int], *, top: int) -> Scored:
    """One forward pass over ``ids``; the ``top`` likeliest tokens of each place, at least one."""
    if len(ids) < 2:
        return Scored((), ())
    with torch.no_grad():
        device = policy.decoder.head_weight.device
        hidden: Tensor = policy.decoder(torch.tensor([list(ids[:-1])], device=device))
        logp_TV = policy.decoder.logits(hidden)[0].float().log_softmax(-1)
        own_T = logp_TV.gather(1, torch.tensor(list(ids[1:]), device=device)[:, None])[:, 0]
        best = logp_TV.topk(min(max(1, top), policy.config.vocab_size), dim=-1)
    rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return Scored(tuple(own_T.tolist()), tuple(tuple(zip(*row, strict=True)) for row in rows))


def _way(work: _Sampling) -> SamplingParams:
    return replace(work.params, max_new_tokens=1)


def _settle(future: Future[Any], function: Callable[[], Any]) -> None:
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)
