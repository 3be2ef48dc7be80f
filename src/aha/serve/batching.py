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

from aha.errors import EndpointError
from aha.objective.logprob import positions_at_once
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


_Work = _Sampling | _Calling


class Batcher:
    """``Batcher(policy, engine).sample(prompt, seeds, params)`` gives a future; ``waiting`` counts the samples, and the
    texts to score, that are not answered yet.

    What is cancelled before its turn is left out. Once the thread has ended, by ``close`` or by an error that is no
    request's, everything that waits and that comes later is refused with ``EndpointError``: no answer would ever come.
    """

    def __init__(self, policy: Policy, engine: Engine) -> None:
        self._policy, self._engine = policy, engine
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._held: list[_Work | None] = []
        self._lock = threading.Lock()
        self._ended = ""
        self.waiting = 0
        self._thread = threading.Thread(target=self._run, daemon=True, name="model")
        self._thread.start()

    def sample(self, prompt: Sequence[int], seeds: Sequence[int], params: SamplingParams) -> Future[list[Completion]]:
        """A completion for each seed."""
        work = _Sampling(prompt, seeds, params)
        self._put(work, len(seeds))
        return work.future

    def score(self, ids: Sequence[int], *, top: int) -> Future[Scored]:
        """What the model gives each token of a text."""
        work = _Calling(lambda: score_text(self._policy, ids, top=top))
        self._put(work, 1)
        return work.future

    def close(self) -> None:
        """Answers what waits and ends the thread."""
        self._queue.put(None)
        self._thread.join()

    def _put(self, work: _Work, size: int) -> None:
        self.waiting += size
        cast("Future[Any]", work.future).add_done_callback(lambda _: self._leave(size))
        with self._lock:
            if not self._ended:
                self._queue.put(work)
                return
        self._refuse([work])

    def _leave(self, size: int) -> None:
        self.waiting -= size

    def _run(self) -> None:
        batch: list[_Work] = []
        why = "the model's thread is closed"
        try:
            while batch := self._take():
                self._settle(batch)
        except BaseException as error:
            why = f"the model's thread has ended with {error!r}: start the server again"
            raise
        finally:
            with self._lock:
                self._ended = why
            while not self._queue.empty():
                self._held.append(self._queue.get())
            self._refuse([*batch, *(work for work in self._held if work)])

    def _refuse(self, rest: Sequence[_Work]) -> None:
        for work in rest:
            future = cast("Future[Any]", work.future)
            if future.running() or (not future.done() and future.set_running_or_notify_cancel()):
                future.set_exception(EndpointError(self._ended))

    def _take(self) -> list[_Work]:
        """What is answered together next: what has waited longest, and all that waits and differs from it in length at
        most. Nothing at the end."""
        while True:
            while not self._held or not self._queue.empty():
                self._held.append(self._queue.get())
            first = self._held[0]
            if first is None:
                return []
            batch = [work for work in self._held if work and _go_together(work, first)]
            self._held = [work for work in self._held if work is None or not _go_together(work, first)]
            if batch := [work for work in batch if work.future.set_running_or_notify_cancel()]:
                return batch

    def _settle(self, batch: Sequence[_Work]) -> None:
        try:
            found = self._answer(batch)
        except Exception as error:
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            for one in batch:  # one of them cannot be answered: each by itself, so that the others can
                self._settle([one])
        else:
            for one, answer in zip(batch, found, strict=True):
                one.future.set_result(answer)

    def _answer(self, batch: Sequence[_Work]) -> list[Any]:
        if isinstance(batch[0], _Calling):
            return [batch[0].function()]
        asked = cast("Sequence[_Sampling]", batch)
        most = max(work.params.max_new_tokens for work in asked)
        limits = [[work.params.max_new_tokens] * len(work.seeds) for work in asked]
        params = replace(asked[0].params, max_new_tokens=most)
        return self._engine.generate(
            [work.prompt for work in asked], [work.seeds for work in asked], params, limits=limits
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
        own: list[float] = []
        best: list[tuple[tuple[int, float], ...]] = []
        said = torch.tensor(list(ids[1:]), device=device)
        V, D = policy.decoder.head_weight.shape
        places = positions_at_once(len(said), V, D, itemsize=4, on_cpu=device.type == "cpu")
        for hidden_nD, said_n in zip(torch.split(hidden[0], places), torch.split(said, places), strict=True):
            logp_nV = policy.decoder.logits(hidden_nD).float().log_softmax(-1)
            own += logp_nV.gather(1, said_n[:, None])[:, 0].tolist()
            most = logp_nV.topk(min(max(1, top), policy.config.vocab_size), dim=-1)
            best += [
                tuple(zip(*row, strict=True)) for row in zip(most.indices.tolist(), most.values.tolist(), strict=True)
            ]
    return Scored(tuple(own), tuple(best))


def _go_together(work: _Work, first: _Work) -> bool:
    if isinstance(work, _Sampling) and isinstance(first, _Sampling):
        return replace(work.params, max_new_tokens=1) == replace(first.params, max_new_tokens=1)
    return work is first
