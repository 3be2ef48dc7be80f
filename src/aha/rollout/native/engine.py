"""The engine of our own: continuous batching on one device, each prompt read once, exact log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from aha.errors import DataError, InvariantError, SettingError
from aha.model.config import ModelConfig
from aha.records import Completion, FinishReason
from aha.rollout.engine import SamplingParams
from aha.rollout.native.compiled import CompiledRunner
from aha.rollout.native.graphs import GraphRunner, is_captured
from aha.rollout.native.int8 import check_int8, rest_of
from aha.rollout.native.kernels import Kernels, load_kernels
from aha.rollout.native.memory import MAX_SLOTS, count_columns, count_slots
from aha.rollout.native.packed import is_packable
from aha.rollout.native.prefixes import PrefixCache, hash_beginnings
from aha.rollout.native.rows import BROKEN, ENDED, FULL, STOPPED, SUSPECT
from aha.rollout.native.runner import Runner
from aha.rollout.native.scheduler import Scheduler
from aha.rollout.native.speculative import Speculation, SpeculativeRunner
from aha.rollout.native.stops import StopStrings
from aha.rollout.native.weights import kept_type


class NativeEngine:
    """Samples with PyTorch on a CPU or a GPU; on a CPU with compiled kernels where there are some for the model, on a
    GPU with steps that are CUDA graphs where they can be (rollout/native/graphs.py).

    At most ``max_slots`` sequences are live at once, fewer where their key/value cache would exceed ``cache_bytes``.
    ``detokenize`` turns token ids into text; it is needed for stop strings only. With ``prefix_bytes`` up to so much of
    the cache of prompts and completions outlives a call of ``generate``, so that a prompt which continues one is read
    from there on; new weights forget it all, so no entry can belong to older ones. What was read by decoding may then
    differ in its last bits from what is read at once. ``sampled_tokens`` and ``read_tokens`` count what ``generate``
    has drawn, and has read of prompts, since the engine was made.

    With ``speculate`` that many modules of multi-token prediction each draft a token, and the model verifies them in
    one step (rollout/native/speculative.py). What is sampled has the same distribution, and is the same at temperature
    0; with a seed it is other text than without drafts, as the random numbers are used otherwise.

    With ``dtype`` ``torch.int8`` matrices are in int8 and the rest is in bfloat16 (rollout/native/int8.py): half of
    bfloat16's memory, and log-probs some hundredths from the trainer's.

    ``SettingError`` for int8 on a GPU and with latent attention or experts; where the model has fewer modules than
    ``speculate``; for drafts together with ``prefix_bytes``, as what is kept of a text has not the states that modules
    draft from.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        max_slots: int = MAX_SLOTS,
        cache_bytes: int = 2 << 30,
        prefix_bytes: int = 0,
        speculate: int = 0,
        detokenize: Callable[[Sequence[int]], str] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if max_slots < 1:
            raise SettingError(f"max_slots is {max_slots}; at least 1 sequence must fit")
        modules = config.num_nextn_predict_layers
        if not 0 <= speculate <= modules:
            raise SettingError(
                f"speculate is {speculate}, but the model has {modules} modules of multi-token prediction to draft "
                f"with: give at most {modules}, or train more of them in (num_nextn_predict_layers)"
            )
        if speculate and prefix_bytes:
            raise SettingError(
                f"speculate is {speculate} and prefix_bytes {prefix_bytes}: kept prefixes have no states to draft "
                "from; set one of them to 0"
            )
        if dtype == torch.int8:
            check_int8(config, torch.device(device))
        self._config = config
        self._speculate = speculate
        self._max_slots = max_slots
        self._cache_bytes = cache_bytes
        self._dtype = dtype
        self._build_runner = partial(
            build_runner, config, dtype=dtype, device=torch.device(device), speculate=speculate
        )
        self._held: Runner | CompiledRunner | None = None
        self._speculation: Speculation | None = None
        self._stops = None if detokenize is None else StopStrings(detokenize, config.vocab_size)
        self._prefixes = PrefixCache(prefix_bytes) if prefix_bytes else None
        self._version: int | None = None
        self.sampled_tokens = self.read_tokens = 0

    @property
    def policy_version(self) -> int:
        """Version of the weights in use. Raises ``InvariantError`` before the first ``load_weights``."""
        if self._version is None:
            raise InvariantError("the engine has no weights yet: call load_weights first")
        return self._version

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the weights; with ``torch.int8`` that of matrices."""
        return self._dtype

    @property
    def speculate(self) -> int:
        """Tokens drafted a step; 0 samples plainly."""
        return self._speculate

    @property
    def speculation(self) -> Speculation | None:
        """What came of the drafts of the last call of ``generate``; ``None`` without drafts."""
        return self._held.speculation() if isinstance(self._held, SpeculativeRunner) else self._speculation

    def load_weights(self, decoder: nn.Module, version: int) -> None:
        """Copies the weights of ``decoder`` into storage of its own; later changes of ``decoder`` do not reach it."""
        self._version = None  # a copy that fails half way leaves no usable version
        if self._prefixes is not None:
            self._prefixes.clear()
        self._runner.load(decoder)
        self._version = version

    def release(self) -> None:
        """Frees weights and cache until the next ``load_weights``, and gives their memory to the rest of the step."""
        self._speculation = self.speculation
        self._version = self._held = None
        if self._prefixes is not None:
            self._prefixes.clear()

    @property
    def _runner(self) -> Runner | CompiledRunner:
        if self._held is None:
            self._held = self._build_runner()
        return self._held

    def digest(self) -> str:
        """Digest of the weights sampled with; equals ``decoder_digest`` of the decoder after a sync, with this engine's
        ``dtype`` and ``ahead=speculate``."""
        return self._runner.weights.digest()

    def score(self, sequences: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
        """Log-probability at temperature 1 of every token but the first of each sequence, by the engine's prefill.

        Raises ``DataError`` for an empty sequence, one that is too long, or an id outside the vocabulary.
        """
        _ = self.policy_version
        for index, ids in enumerate(sequences):
            check_ids(self._config, f"sequence {index}", ids, 0)
        return self._runner.score(sequences)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        limits: Sequence[Sequence[int]] | None = None,
        done: Callable[[int, list[Completion]], None] | None = None,
    ) -> list[list[Completion]]:
        """``len(seeds[p])`` completions of every prompt ``p``, in order. Seeds are integers of at most 63 bits.

        A completion depends on its prompt and seed, not on its neighbours. Log-probabilities are those of the
        distribution sampled from, after temperature, top-k and top-p. ``limits``, shaped like ``seeds``, gives each
        sequence a maximum of new tokens of its own, at most ``max_new_tokens``. ``done`` is called with a prompt's
        number and completions when the last of them has ended and others go on. Raises ``DataError`` for such a limit
        that cannot be, and for a prompt that is empty, has an unknown id or does not fit into
        ``max_position_embeddings`` together with its largest limit. Raises ``InvariantError`` for logits that are NaN
        or infinite.
        """
        version = self.policy_version
        if len(seeds) != len(prompts):
            raise DataError(f"{len(prompts)} prompts but seeds for {len(seeds)}; give each prompt a list of seeds")
        if limits is None:
            limits = [[params.max_new_tokens] * len(own) for own in seeds]
        _check_limits(limits, seeds, params)
        for index, (ids, own) in enumerate(zip(prompts, seeds, strict=True)):
            check_ids(self._config, f"prompt {index}", ids, max(limits[index], default=params.max_new_tokens))
            if any(not 0 <= seed < 1 << 63 for seed in own):
                raise DataError(f"prompt {index} has a seed outside 0 .. 2**63 - 1")
        if params.stop and self._stops is None:
            raise SettingError(f"stop strings {params.stop} need an engine with a detokenize function")
        num_sequences = sum(map(len, seeds))
        results: list[list[Completion | None]] = [[None] * len(own) for own in seeds]
        if num_sequences:
            self._run(prompts, seeds, limits, params, version, results, num_sequences, done)
        return [[c for c in group if c is not None] for group in results]

    def _run(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        limits: Sequence[Sequence[int]],
        params: SamplingParams,
        version: int,
        results: list[list[Completion | None]],
        num_sequences: int,
        done: Callable[[int, list[Completion]], None] | None,
    ) -> None:
        runner = self._runner
        longest = max(len(ids) + max(own) for ids, own in zip(prompts, limits, strict=True) if own)
        num_columns = count_columns(longest, speculate=self._speculate)
        num_slots = count_slots(
            self._config,
            num_sequences,
            num_columns,
            cache_bytes=self._cache_bytes,
            max_slots=self._max_slots,
            bytes_per_number=runner.bytes_per_number,
            speculate=self._speculate,
        )
        stops = self._stops.tokens(params.stop) if self._stops is not None and params.stop else ((), ())
        runner.begin(num_slots, num_columns, params, *stops)
        scheduler = Scheduler(limits, [len(ids) for ids in prompts], num_slots)
        prefixes: dict[int, Any] = {}  # of the kind that the runner makes
        hashes: dict[int, list[int]] = {}  # of the beginnings of prompts
        finished: dict[int, FinishReason] = {}
        step = 0
        while True:
            plan = scheduler.advance(finished, step)
            runner.move(plan.moves)
            if plan.prefill:
                order = sorted(plan.prefill, key=lambda p: len(prompts[p]))
                if self._prefixes is not None:
                    hashes |= {p: hash_beginnings(prompts[p]) for p in order}
                prefixes.update(zip(order, self._read(order, prompts, hashes), strict=True))
            reported: list[tuple[int, int]] = []
            if plan.admitted:
                reported = runner.admit(
                    [slot for slot, _ in plan.admitted],
                    [prefixes[row.group] for _, row in plan.admitted],
                    [seeds[row.group][row.member] for _, row in plan.admitted],
                    [limits[row.group][row.member] for _, row in plan.admitted],
                )
            for group in plan.release:
                del prefixes[group]
            if not reported:
                if not scheduler.num_live:
                    return
                reported = runner.step(scheduler.num_live, scheduler.longest(step))
                step += 1
            for slot, bits in reported:
                if bits & BROKEN:
                    runner.forget()
                    row = scheduler.row(slot)
                    raise InvariantError(
                        f"prompt {row.group}, sample {row.member}: weights or logits are not finite in the sampler's "
                        f"version {version} of the weights, as {self._dtype}: go back to the last good checkpoint; "
                        "lower the learning rate if training made them so"
                    )
            finished = self._judge(reported, params)
            if finished:
                slots = list(finished)
                rows = [scheduler.row(slot) for slot in slots]
                said = runner.collect(slots)
                for slot, row, (tokens, logprobs) in zip(slots, rows, said, strict=True):
                    self.sampled_tokens += len(tokens)
                    results[row.group][row.member] = Completion(tuple(tokens), tuple(logprobs), finished[slot], version)
                if done is not None:
                    for group in {row.group for row in rows}:
                        if None not in (own := results[group]):
                            done(group, [c for c in own if c is not None])
                if self._prefixes is not None:
                    texts = [
                        (prompts[row.group], tokens[:-1], hash_beginnings(tokens[:-1], hashes[row.group]))
                        for row, (tokens, _) in zip(rows, said, strict=True)
                    ]
                    self._keep(self._prefixes, slots, texts)

    def _keep(
        self, cache: PrefixCache, slots: Sequence[int], texts: Sequence[tuple[Sequence[int], list[int], list[int]]]
    ) -> None:
        """Copies what each slot has read of its (prompt, completion, numbers of the beginnings); equal texts once."""
        new = {numbers[-1]: i for i, (_, _, numbers) in enumerate(texts) if not cache.holds(numbers)}
        kept: list[Any] = self._runner.keep([slots[i] for i in new.values()])
        for i, own in zip(new.values(), kept, strict=True):
            prompt, ids, numbers = texts[i]
            cache.store((*prompt, *ids), numbers, own, behind=len(prompt))

    def _read(
        self, order: Sequence[int], prompts: Sequence[Sequence[int]], hashes: Mapping[int, list[int]]
    ) -> list[Any]:
        """Prompts in the ``order`` of length, each from where the kept prefixes end."""
        cache = self._prefixes
        if cache is None:
            self.read_tokens += sum(len(prompts[p]) for p in order)
            return self._runner.prefill([prompts[p] for p in order])
        known = {p: cache.longest(prompts[p], hashes[p]) for p in order}
        pasts = {p: past for p, past in known.items() if past is not None}
        tails = {p: prompts[p][pasts[p].length :] if p in pasts else prompts[p] for p in order}
        self.read_tokens += sum(map(len, tails.values()))
        new = iter(self._runner.prefill([tail for p, tail in tails.items() if p not in pasts]))
        more = iter(self._runner.extend(list[Any](pasts.values()), [tails[p] for p in pasts]))
        prefixes: list[Any] = [next(more if p in pasts else new) for p in order]
        for p, prefix in zip(order, prefixes, strict=True):
            cache.store(prompts[p], hashes[p], prefix.kept)
        return prefixes

    def _judge(self, reported: Sequence[tuple[int, int]], params: SamplingParams) -> dict[int, FinishReason]:
        """Which of the reported rows are finished, and why: an end token, then a stop string, then the length."""
        finished: dict[int, FinishReason] = {}
        suspects: list[tuple[int, int]] = []
        for slot, bits in reported:
            if bits & ENDED:
                finished[slot] = FinishReason.END
            elif bits & STOPPED:
                finished[slot] = FinishReason.STOP
            elif bits & SUSPECT:
                suspects.append((slot, bits))
            elif bits & FULL:
                finished[slot] = FinishReason.LENGTH
        if suspects and self._stops is not None:
            tails = self._runner.tail([slot for slot, _ in suspects], self._stops.window(params.stop))
            for (slot, bits), tail in zip(suspects, tails, strict=True):
                if self._stops.found(tail, params.stop):
                    finished[slot] = FinishReason.STOP
                elif bits & FULL:
                    finished[slot] = FinishReason.LENGTH
        return finished


def check_ids(config: ModelConfig, what: str, ids: Sequence[int], num_new: int) -> None:
    """``DataError`` where ``ids`` and ``num_new`` tokens behind them are nothing that the model can read."""
    limit, vocab = config.longest, config.vocab_size
    if not len(ids):
        raise DataError(f"{what} has no tokens; start it with a begin token")
    if len(ids) + num_new > limit:
        for_prompt, for_new = limit - num_new, limit - len(ids)
        ways = [f"shorten it to {for_prompt} tokens"] if for_prompt > 0 else []
        ways += [f"lower max_new_tokens to {for_new}"] if for_new > 0 else []
        raise DataError(
            f"{what} has {len(ids)} tokens and max_new_tokens is {num_new}, {len(ids) + num_new} together, but the "
            f"model's {config.longest_by} is {limit}: {' or '.join(ways or ['shorten both'])}"
        )
    if min(ids) < 0 or max(ids) >= vocab:
        wrong = next(i for i in ids if not 0 <= i < vocab)
        raise DataError(f"{what} has the token id {wrong}, but the model's vocabulary is 0 .. {vocab - 1}")


def build_runner(
    config: ModelConfig, *, dtype: torch.dtype, device: torch.device, speculate: int
) -> Runner | CompiledRunner:
    """With compiled kernels where they know the model and can be had, else with PyTorch; on a GPU with CUDA graphs."""
    if speculate:
        return SpeculativeRunner(config, dtype=dtype, device=device, ahead=speculate)
    if is_captured(config, device, speculate=speculate):
        return GraphRunner(config, dtype=dtype, device=device)
    if (kernels := _kernels_for(config, dtype, device)) is not None:
        return CompiledRunner(config, kernels, dtype=dtype)
    return Runner(config, dtype=dtype, device=device)


def sampled_itemsize(config: ModelConfig, *, dtype: torch.dtype, device: torch.device, speculate: int) -> int:
    """Bytes of a number of the runner that ``build_runner`` makes: of its cache, and of all that is not in int8."""
    compiled = not speculate and _kernels_for(config, dtype, device) is not None
    return (rest_of(dtype) if compiled else kept_type(dtype, device)).itemsize


def _kernels_for(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> Kernels | None:
    return load_kernels() if device.type == "cpu" and is_packable(config, dtype) else None


def _check_limits(
    limits: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]], params: SamplingParams
) -> None:
    if list(map(len, limits)) != list(map(len, seeds)):
        raise DataError(f"limits for {list(map(len, limits))} sequences but seeds for {list(map(len, seeds))}")
    for index, own in enumerate(limits):
        for limit in own:
            if not 1 <= limit <= params.max_new_tokens:
                allowed = f"1 .. max_new_tokens {params.max_new_tokens}"
                raise DataError(f"prompt {index} has the limit {limit}, not {allowed}")
