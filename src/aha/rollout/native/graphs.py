"""Decoding on a GPU: a step of fixed shapes, captured as a CUDA graph and from then on launched as one.

``Runner`` launches some 25 small kernels a layer from Python, which for few rows takes longer than they compute. Here
rows are rounded up, so that few shapes occur, and what differs from step to step is in tensors that stay where they
are. Rows past the live ones compute, too, as rows of one token, and what they would change is written back as it was.

B rows (rounded up), S slots, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
from torch import Tensor

from aha.model.config import ModelConfig
from aha.rollout.engine import SamplingParams
from aha.rollout.native.runner import Runner

_EAGER_STEPS = 3  # of a shape before it is captured, which takes about as long as so many save


def is_captured(config: ModelConfig, device: torch.device, *, speculate: int) -> bool:
    """Whether a step of the sampler becomes a graph: on a GPU, where it is the same kernels whatever the numbers. With
    experts it is not, as Python asks how many tokens each has (model/moe.py); nor with drafts, as rows then grow
    unequally."""
    return device.type == "cuda" and not config.n_routed_experts and not speculate


class GraphRunner(Runner):
    """A ``Runner`` whose steps are graphs on a GPU; elsewhere the same operations run one by one.

    Where top-k or top-p cut, the graph ends with the logits: how far top-p must look is read from the device. Graphs
    live from one ``begin`` to the next, within which no tensor that they read moves; ``load`` writes weights in place.
    """

    _column_step = 256  # coarse: each other number of columns is another graph

    @torch.inference_mode()
    def begin(
        self,
        num_slots: int,
        num_columns: int,
        params: SamplingParams,
        suspects: Sequence[int] = (),
        stops: Sequence[int] = (),
    ) -> None:
        self._graphs = Graphs(self._device)  # before memory is asked for: the earlier ones go
        super().begin(num_slots, num_columns, params, suspects, stops)
        self._num_live = torch.zeros((), dtype=torch.int64, device=self._device)
        self._bits_S = torch.zeros(num_slots, dtype=torch.uint8, device=self._device)
        vocab = self._config.vocab_size
        cuts = params.temperature > 0 and (0 < params.top_k < vocab or params.top_p < 1.0)
        self._logits_SV = torch.zeros(num_slots, vocab, device=self._device) if cuts else None

    @torch.inference_mode()
    def step(self, num_live: int, num_columns: int) -> list[tuple[int, int]]:
        self._used = num_live
        self._fit(num_columns)
        self._num_live.fill_(num_live)
        num_rows = round_rows(num_live, len(self._slots))
        shape = (num_rows, self._arena.shape[-2])
        self._graphs.run(shape, partial(self._advance, num_rows), reads=(self._starts, self._rotation))
        if self._logits_SV is not None:
            at = slice(num_live)
            drawn = self._sample(self._logits_SV[at], self._slots[at], self._counts[at])
            return self._record(at, *drawn)
        return [(slot, own) for slot, own in enumerate(self._bits_S[:num_live].tolist()) if own]

    def _advance(self, num_rows: int) -> None:
        """A step of the first ``num_rows`` rows, of which ``_num_live`` live, without a look at any number.

        A dead row stands at position 0 of its own columns and looks up its token 0: what it has may lie beyond either.
        """
        at = slice(num_rows)
        live_B = self._slots[at] < self._num_live
        logits_BV = self._decode(self._positions[at] * live_B)
        if self._logits_SV is not None:
            self._logits_SV[at] = logits_BV
            return
        rows_B, counts_B = self._slots[at], self._counts[at] * live_B
        tokens_B, logprobs_B = self._sample(logits_BV, rows_B, counts_B)
        # Not ``torch.where`` with a number, which comes from the host: that cannot be captured.
        for out, new_B in ((self._out_tokens, tokens_B), (self._out_logprobs, logprobs_B)):
            out[rows_B, counts_B] = torch.where(live_B, new_B, out[rows_B, counts_B])
        self._tokens[at] = torch.where(live_B, tokens_B, self._tokens[at])
        self._positions[at].add_(live_B)
        self._counts[at].add_(live_B)
        full_B = self._counts[at] >= self._limits[at]
        self._bits_S[at] = self._bits_of(tokens_B, logprobs_B, full_B)


class Graphs:
    """Work by its shape: run as it is at first, on a GPU a graph after that.

    The graphs share one pool of memory, which they may in any order: none leaves a result in it, all are replayed on
    one stream.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._seen: Counter[tuple[int, int]] = Counter()
        self._captured: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Sequence[Tensor]]] = {}

    def run(self, shape: tuple[int, int], work: Callable[[], None], *, reads: Sequence[Tensor]) -> None:
        """Does ``work``, which is the same for the same ``shape``. Of the tensors it reads others may take the place of
        ``reads``, with the same numbers: those that a graph was captured with are kept as long as it."""
        if self._device.type != "cuda":
            work()
            return
        self._seen[shape] += 1
        if self._seen[shape] <= _EAGER_STEPS:
            self._run_aside(work)
            return
        if shape not in self._captured:
            graph = torch.cuda.CUDAGraph()
            # Another thread of the process may use the device meanwhile.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=_side_stream(self._device), capture_error_mode="thread_local"
            ):
                work()  # noted, not done
            self._captured[shape] = graph, reads
        self._captured[shape][0].replay()

    def _run_aside(self, work: Callable[[], None]) -> None:
        """On the stream that captures: what libraries set up for a stream and a shape must be there before."""
        here, aside = torch.cuda.current_stream(self._device), _side_stream(self._device)
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            work()
        here.wait_stream(aside)


def round_rows(num_live: int, num_slots: int) -> int:
    """Rows of the graph that steps ``num_live``: 1, 2, 4, 8, 16, 24, 32, 48, 64, 96, ...; at most as many as there are
    slots."""
    whole = 1 << (num_live - 1).bit_length()
    step = whole if whole <= 8 else max(8, whole // 4)
    return min(-(-num_live // step) * step, num_slots)


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for the process: each stream that multiplies matrices has memory of its own."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
