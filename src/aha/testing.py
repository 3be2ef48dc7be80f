"""For tests of code that uses Aha: an engine that replays a script, tokenizers, a tiny model, a few problems; and what
memory a function takes on a CPU, to the byte."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from random import Random

from torch import nn
from torch.profiler import ProfilerActivity, profile

from aha.data.corpus import TAGS, TEMPLATE, documents
from aha.errors import DataError, InvariantError
from aha.model.config import ModelConfig
from aha.model.decoder import build_decoder
from aha.records import Completion, FinishReason, Problem
from aha.rollout.engine import SamplingParams
from aha.stages.models import Policy
from aha.tasks import chain, number
from aha.tasks.words import ENGLISH_TO_CHINESE
from aha.tokens.render import Renderer
from aha.tokens.tokenizer import Tokenizer, train_bpe_tokenizer, train_word_tokenizer

LOGPROB = -0.5


class ScriptedEngine:
    """Replays completions: ``ScriptedEngine({(5, 9): [(7, 2), (8, 2)]})`` answers prompt ``(5, 9)`` with them in turn.

    Sample g of a prompt gets entry ``g % len(entries)``. An entry that ends with an end token is finished, a longer one
    is cut at ``max_new_tokens``; ``DataError`` for one that does neither, or for a prompt that is not in the script.
    With ``detokenize`` it obeys stop strings. Every token has log-probability -0.5; ``sampled_tokens`` counts them. It
    satisfies ``rollout.engine.Engine``.
    """

    def __init__(
        self,
        script: Mapping[tuple[int, ...], Sequence[Sequence[int]]],
        *,
        detokenize: Callable[[Sequence[int]], str] | None = None,
    ) -> None:
        self._script = dict(script)
        self._detokenize = detokenize
        self._version: int | None = None
        self.sampled_tokens = 0

    @property
    def policy_version(self) -> int:
        if self._version is None:
            raise InvariantError("the engine has no weights yet: call load_weights first")
        return self._version

    def load_weights(self, decoder: nn.Module, version: int) -> None:
        self._version = version

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        limits: Sequence[Sequence[int]] | None = None,
        done: Callable[[int, list[Completion]], None] | None = None,
    ) -> list[list[Completion]]:
        groups = []
        for p, (prompt, own) in enumerate(zip(prompts, seeds, strict=True)):
            entries = self._script.get(tuple(prompt))
            if not entries:
                raise DataError(f"the script has no completion for the prompt {tuple(prompt)}")
            most = [params.max_new_tokens] * len(own) if limits is None else limits[p]
            groups.append([self._replay(entries[g % len(entries)], params, most[g]) for g in range(len(own))])
            if done is not None:
                done(p, groups[-1])
        return groups

    def _replay(self, entry: Sequence[int], params: SamplingParams, limit: int) -> Completion:
        whole = tuple(entry)
        if self._detokenize is not None:
            ends = (n for n in range(1, len(whole) + 1) if any(s in self._detokenize(whole[:n]) for s in params.stop))
            whole = whole[: next(ends, len(whole))]
        ids = whole[:limit]
        self.sampled_tokens += len(ids)
        if ids and ids[-1] in params.end_token_ids:
            reason = FinishReason.END
        elif ids and self._detokenize is not None and any(s in self._detokenize(ids) for s in params.stop):
            reason = FinishReason.STOP
        elif len(ids) == limit:
            reason = FinishReason.LENGTH
        else:
            raise DataError(f"the entry {tuple(entry)} neither ends, stops nor fills {limit} tokens")
        return Completion(ids, (LOGPROB,) * len(ids), reason, self.policy_version)


def word_tokenizer() -> Tokenizer:
    """One token for every word of the toy's corpus and two languages, its tags, and the numbers from 0 to 99."""
    words = " ".join([*ENGLISH_TO_CHINESE, *ENGLISH_TO_CHINESE.values(), *map(str, range(100))])
    return train_word_tokenizer([*islice(documents(Random(0)), 1_000), words], special_tokens=TAGS)


def byte_tokenizer() -> Tokenizer:
    """One token for every byte, and nothing else but ``<pad>`` and ``<eos>``: any text survives the round trip."""
    return train_bpe_tokenizer([], vocab_size=258)


def tiny_policy(*, seed: int = 0, tokenizer: Tokenizer | None = None, template: str = TEMPLATE) -> Policy:
    """An untrained model of two layers, 16 wide, with a tokenizer (``word_tokenizer``) and a template."""
    tokenizer = tokenizer or word_tokenizer()
    config = ModelConfig(
        model_type="qwen2",
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_id,
    )
    return Policy(build_decoder(config, seed=seed), config, Renderer(tokenizer, template))


def few_problems() -> list[Problem]:
    """One problem of every family."""
    return [
        chain.generate(Random(0), language="en"),
        Problem(
            "countdown/20 7 2/25",
            "make 25 from 20 7 2",
            "20 + 7 - 2",
            "countdown",
            meta={"numbers": [20, 7, 2], "target": 25},
        ),
        number.addition(7, 45),
        number.product(7, 8),
        Problem(
            "general/translate/big cat",
            "translate big cat",
            "大 猫",
            "general",
            meta={"kind": "translate", "thing": "big cat", "verb": "big"},
        ),
    ]


def measure_peak_memory(function: Callable[[], object]) -> int:
    """The most bytes of tensors that were alive at one time while ``function`` ran, of those that it made, on a CPU.

    Every allocation and release of torch's allocator counts, those inside its kernels too; what libraries below it take
    for themselves (MKL, oneDNN) does not.
    """
    gc.collect()  # or what was made before is released while it is measured
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak
