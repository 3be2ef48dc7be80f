"""Log-probabilities of given tokens without ever holding the logits of a whole batch.

Shapes: N positions, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits held at a time: 32 MiB in float32. A tiny vocabulary has its whole micro-batch in one chunk.
CHUNK_ELEMENTS = 2**23


def token_logprobs(
    hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, *, temperature: float = 1.0, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """Log-prob of each target under ``softmax(hidden @ head.T / temperature)``, and its entropy; both [N].

    Both in nats and in float32 or wider. The log-probs carry gradient to ``hidden_ND`` and ``head_VD`` (once: there is
    no second derivative); the entropy carries none. ``chunk`` is the number of positions whose logits exist at one
    time; the result does not depend on it but for rounding.
    """
    if chunk is None:
        chunk = max(1, CHUNK_ELEMENTS // head_VD.shape[0])
    logp_N, entropy_N = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden_ND, head_VD, targets_N, temperature, chunk
    )
    return logp_N, entropy_N


def _log_softmax(hidden_ND: Tensor, head_VD: Tensor, temperature: float) -> Tensor:
    logits_NV = hidden_ND @ head_VD.T
    if logits_NV.dtype in (torch.float16, torch.bfloat16):
        logits_NV = logits_NV.float()
    if temperature != 1.0:
        logits_NV = logits_NV / temperature
    return logits_NV.log_softmax(-1)


class _TokenLogprobs(torch.autograd.Function):
    """Keeps the probabilities of a single chunk for the backward pass; with several chunks, computes them again."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        logps, entropies = [], []
        kept: Tensor | None = None
        for start in range(0, hidden_ND.shape[0], chunk):
            logp_nV = _log_softmax(hidden_ND[start : start + chunk], head_VD, temperature)
            prob_nV = logp_nV.exp()
            logps.append(logp_nV.gather(1, targets_N[start : start + chunk, None])[:, 0])
            entropies.append(-torch.linalg.vecdot(prob_nV, logp_nV))
            if hidden_ND.shape[0] <= chunk:
                kept = prob_nV
            del logp_nV, prob_nV  # before the next chunk's are made
        ctx.save_for_backward(hidden_ND, head_VD, targets_N, *([] if kept is None else [kept]))
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
        grad_hiddens = []
        # Sums over chunks in the logits' precision, so that bf16 weights do not lose small chunks.
        grad_head_VD: Tensor | None = None
        for start in range(0, hidden_ND.shape[0], ctx.chunk):
            part = slice(start, start + ctx.chunk)
            prob_nV = kept[0] if kept else _log_softmax(hidden_ND[part], head_VD, ctx.temperature).exp()
            grad_n1 = grad_logp_N[part, None] / ctx.temperature
            # d logp[target] / d logits = (onehot(target) - prob) / temperature
            grad_nV = (prob_nV * -grad_n1).scatter_add_(1, targets_N[part, None], grad_n1).to(hidden_ND.dtype)
            grad_hiddens.append(grad_nV @ head_VD)
            contribution = grad_nV.T @ hidden_ND[part]
            if contribution.dtype in (torch.float16, torch.bfloat16):
                contribution = contribution.float()
            grad_head_VD = contribution if grad_head_VD is None else grad_head_VD.add_(contribution)
            del prob_nV, grad_nV, contribution
        if grad_head_VD is None:
            return None, None, None, None, None
        grad_hidden_ND = grad_hiddens[0] if len(grad_hiddens) == 1 else torch.cat(grad_hiddens)
        return grad_hidden_ND, grad_head_VD.to(head_VD.dtype), None, None, None
