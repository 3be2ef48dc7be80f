"""Log-probabilities of given tokens without ever holding the logits of a whole batch.

Shapes: N positions, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from aha.model import kernels
from aha.model.product import product, weight_gradient

# Logits held at a time: 32 MiB in float32. A tiny vocabulary has its whole micro-batch in one chunk.
CHUNK_ELEMENTS = 2**23
GPU_CHUNK_ELEMENTS = 2**27  # 512 MiB: of a vocabulary of 152,000 883 positions, where 55 keep no GPU busy
WORDS_AT_ONCE = 2**13

Slope = Callable[[Tensor, slice], Tensor]
"""What the loss's derivative by each log-prob will be: of some log-probs ``[n]``, those at a slice of the positions."""


def token_logprobs(
    hidden_ND: Tensor,
    head_VD: Tensor,
    targets_N: Tensor,
    *,
    temperature: float = 1.0,
    chunk: int | None = None,
    slope: Slope | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-prob of each target under ``softmax(hidden @ head.T / temperature)``, and its entropy; both [N].

    Both in nats and in float32 or wider. The log-probs carry gradient to ``hidden_ND`` and ``head_VD`` (once: there is
    no second derivative); the entropy carries none. ``chunk`` is the number of positions whose logits exist at one
    time; the result does not depend on it but for rounding.

    With ``slope`` the gradients are formed beside the log-probs, chunk by chunk, so that no logits are computed twice.
    The backward pass uses them if the derivative that then comes is the one that was foretold, else it forms its own.
    """
    if chunk is None:
        V, D = head_VD.shape
        chunk = positions_at_once(len(hidden_ND), V, D, itemsize=head_VD.itemsize, on_cpu=head_VD.is_cpu)
    if slope is not None and not (torch.is_grad_enabled() and (hidden_ND.requires_grad or head_VD.requires_grad)):
        slope = None
    logp_N, entropy_N = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden_ND, head_VD, targets_N, temperature, chunk, slope
    )
    return logp_N, entropy_N


def positions_at_once(N: int, V: int, D: int, *, itemsize: int, on_cpu: bool = True) -> int:
    """How many of N positions have logits at a time. In 16 bits all have them up to D positions, whose logits take what
    the head's gradient does: half of the float32 sum that chunks would need."""
    most = CHUNK_ELEMENTS if on_cpu else GPU_CHUNK_ELEMENTS
    return max(1, N if itemsize < 4 and N <= D else min(N, most // V))


def _read(logits_NV: Tensor, targets_N: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Log-prob of each target, entropy, and log of the sum of exponentials, in float32 or wider."""
    if kernels.usable(logits_NV):
        return kernels.read_rows(logits_NV, targets_N, temperature)
    logits_NV = _scaled(logits_NV, temperature)
    lse_N = logits_NV.logsumexp(-1)
    table_NV = logits_NV - lse_N[:, None]
    return table_NV.gather(1, targets_N[:, None])[:, 0], -table_NV.exp().mul_(table_NV).sum(-1), lse_N


def _pull(
    logits_NV: Tensor, targets_N: Tensor, temperature: float, lse_N: Tensor, grad_N: Tensor, *, over: bool
) -> Tensor:
    """The logits' gradient where each log-prob has that of ``grad_N``; ``over``: the logits' memory may be used.

    d logp[target] / d logits = (onehot(target) - prob) / temperature.
    """
    if kernels.usable(logits_NV):
        out = logits_NV if over else torch.empty_like(logits_NV)
        return kernels.pull_rows(logits_NV, targets_N, temperature, lse_N, grad_N.float().contiguous(), out=out)
    grad_N1 = grad_N[:, None] / temperature
    prob_NV = (_scaled(logits_NV, temperature) - lse_N[:, None]).exp_()
    return prob_NV.mul_(-grad_N1).scatter_add_(1, targets_N[:, None], grad_N1.to(prob_NV.dtype)).to(logits_NV.dtype)


def _scaled(logits_NV: Tensor, temperature: float) -> Tensor:
    if logits_NV.dtype in (torch.float16, torch.bfloat16):
        logits_NV = logits_NV.float()
    return logits_NV / temperature if temperature != 1.0 else logits_NV


class _Gradients:
    """Those of the hidden states and of the head, gathered chunk by chunk."""

    def __init__(self, hidden_ND: Tensor, head_VD: Tensor, *, head_learns: bool) -> None:
        self.hidden_ND, self.head_VD, self.head_learns = hidden_ND, head_VD, head_learns
        self.grad_hidden: list[Tensor] = []
        # Sums over chunks in the logits' precision, so that bf16 weights do not lose small chunks.
        self.grad_head: Tensor | None = None

    def add(self, grad_nV: Tensor, part: slice) -> None:
        self.grad_hidden.append(product(grad_nV, self.head_VD.T))
        if not self.head_learns:
            return
        several = len(self.hidden_ND) > len(grad_nV)
        if several and grad_nV.dtype in (torch.float16, torch.bfloat16):
            self._add_narrow(grad_nV, part)
        elif self.grad_head is None:
            self.grad_head = weight_gradient(grad_nV, self.hidden_ND[part])
        else:
            self.grad_head.addmm_(grad_nV.T, self.hidden_ND[part])

    def _add_narrow(self, grad_nV: Tensor, part: slice) -> None:
        """Some words at a time, or the product and what it is widened to would take as much again as the sum."""
        if self.grad_head is None:
            self.grad_head = torch.zeros_like(self.head_VD, dtype=torch.float32)
        for summed, grad_nv in zip(
            torch.split(self.grad_head, WORDS_AT_ONCE), torch.split(grad_nV, WORDS_AT_ONCE, 1), strict=True
        ):
            summed.add_(weight_gradient(grad_nv, self.hidden_ND[part]))

    def result(self) -> tuple[Tensor, Tensor | None]:
        hidden = self.grad_hidden[0] if len(self.grad_hidden) == 1 else torch.cat(self.grad_hidden)
        return hidden, None if self.grad_head is None else self.grad_head.to(self.head_VD.dtype)


class _TokenLogprobs(torch.autograd.Function):
    """Keeps the logits of a single chunk for the backward pass; with several chunks, computes them again; with a slope
    keeps the gradients instead."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        head_VD: Tensor,
        targets_N: Tensor,
        temperature: float,
        chunk: int,
        slope: Slope | None,
    ) -> tuple[Tensor, Tensor]:
        logps, entropies, foretold = [], [], []
        kept: list[Tensor | None] = []
        gradients = _Gradients(hidden_ND, head_VD, head_learns=ctx.needs_input_grad[1])
        for start in range(0, hidden_ND.shape[0], chunk):
            part = slice(start, min(start + chunk, hidden_ND.shape[0]))
            logits_nV = product(hidden_ND[part], head_VD)
            logp_n, entropy_n, lse_n = _read(logits_nV, targets_N[part], temperature)
            logps.append(logp_n)
            entropies.append(entropy_n)
            if slope is not None:
                foretold.append(slope(logp_n, part).to(logp_n.dtype))
                gradients.add(_pull(logits_nV, targets_N[part], temperature, lse_n, foretold[-1], over=True), part)
            elif hidden_ND.shape[0] <= chunk:
                kept = [logits_nV, lse_n]
            del logits_nV  # before the next chunk's are made
        if foretold:
            kept = [torch.cat(foretold), *gradients.result()]
        ctx.save_for_backward(hidden_ND, head_VD, targets_N, *kept)
        ctx.temperature, ctx.chunk = temperature, chunk
        if not logps:
            return hidden_ND.new_zeros(0), hidden_ND.new_zeros(0)
        logp_N = logps[0] if len(logps) == 1 else torch.cat(logps)
        entropy_N = entropies[0] if len(entropies) == 1 else torch.cat(entropies)
        ctx.mark_non_differentiable(entropy_N)
        return logp_N, entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logp_N: Tensor, grad_entropy_N: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, head_VD, targets_N, *kept = ctx.saved_tensors
        none = None, None, None, None
        if not len(targets_N):
            return None, None, *none
        if len(kept) == 3 and (kept[0] - grad_logp_N).abs().max() <= 1e-6 * grad_logp_N.abs().max():
            return kept[1], kept[2], *none
        gradients = _Gradients(hidden_ND, head_VD, head_learns=ctx.needs_input_grad[1])
        for start in range(0, hidden_ND.shape[0], ctx.chunk):
            part = slice(start, start + ctx.chunk)
            if len(kept) == 2:
                logits_nV, lse_n = kept
            else:
                logits_nV = product(hidden_ND[part], head_VD)
                lse_n = _read(logits_nV, targets_N[part], ctx.temperature)[2]
            grad_n = grad_logp_N[part]
            over = len(kept) != 2
            gradients.add(_pull(logits_nV, targets_N[part], ctx.temperature, lse_n, grad_n, over=over), part)
            del logits_nV
        return *gradients.result(), *none
