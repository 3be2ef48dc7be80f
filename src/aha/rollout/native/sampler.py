"""Sampling by inverse CDF from counter-based random numbers: a sample depends on its own logits, seed and index alone.

B sequences, V vocabulary. Temperature first, then top-k, then top-p, as Hugging Face and vLLM order them. Tokens that
tie with the last one kept are kept too, so that the kept set is a function of the logits and not of a sort's order.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX2 = 0x94D049BB133111EB - (1 << 64)
_FIRST_WINDOW = 128


def uniforms(seeds_B: Tensor, index_B: Tensor) -> Tensor:
    """Multiples of 2**-53 in [0, 1), float64 [B], of token ``index`` of the sequence with ``seed`` (both int64 [B]).

    SplitMix64 (Steele, Lea, Flood 2014) read at position ``index``; the products wrap around at 64 bits.
    """
    z = seeds_B + (index_B + 1) * _GAMMA
    z = (z ^ _shift_right(z, 30)) * _MIX1
    z = (z ^ _shift_right(z, 27)) * _MIX2
    z = z ^ _shift_right(z, 31)
    return _shift_right(z, 11).to(torch.float64) * 2.0**-53


def sample(
    logits_BV: Tensor, uniforms_B: Tensor, *, temperature: float, top_k: int, top_p: float
) -> tuple[Tensor, Tensor]:
    """Draws one token a row: ids [B] int64 and their float32 log-probabilities [B] under the distribution drawn from.

    Temperature 0 takes the largest logit, with log-probability 0: it is the only outcome. A row with a logit that is
    NaN or +infinity has some token, with the log-probability NaN.
    """
    if temperature == 0.0:
        tokens_B = logits_BV.argmax(-1)
        largest_B = logits_BV.gather(-1, tokens_B.unsqueeze(-1)).squeeze(-1)
        return tokens_B, (largest_B - largest_B).to(torch.float32)
    probs_BV = probabilities(logits_BV, temperature=temperature, top_k=top_k, top_p=top_p)
    tokens_B1, total_B1 = draw(probs_BV, uniforms_B)
    logprobs_B1 = (probs_BV.gather(-1, tokens_B1) / total_B1).log_()
    return tokens_B1.squeeze(-1), logprobs_B1.squeeze(-1).to(torch.float32)


def probabilities(logits_BV: Tensor, *, temperature: float, top_k: int, top_p: float) -> Tensor:
    """What is drawn from at a temperature over 0, float32 [B, V]; not normalised again after top-k and top-p."""
    probs_BV = torch.softmax(logits_BV if temperature == 1.0 else logits_BV / temperature, -1, dtype=torch.float32)
    if 0 < top_k < probs_BV.shape[-1]:
        probs_BV = keep_top_k(probs_BV, top_k)
    if top_p < 1.0:
        probs_BV = keep_top_p(probs_BV, top_p)
    return probs_BV


def draw(weights_BV: Tensor, uniforms_B: Tensor) -> tuple[Tensor, Tensor]:
    """One token a row in proportion to ``weights``: ids int64 and the float64 sums of the rows, both [B, 1]."""
    cdf_BV = weights_BV.to(torch.float64, copy=True).cumsum_(-1)  # in place: a copy less of the widest numbers
    total_B1 = cdf_BV[:, -1:]
    # A uniform number is at most 1 - 2**-53, and so the product is rounded to less than the total: the search ends on
    # a token whose probability is not 0.
    tokens_B1 = torch.searchsorted(cdf_BV, uniforms_B.unsqueeze(-1) * total_B1, right=True)
    tokens_B1.clamp_max_(cdf_BV.shape[-1] - 1)  # where a row has NaN
    return tokens_B1, total_B1


def keep_top_k(probs_BV: Tensor, top_k: int) -> Tensor:
    """``probs`` with everything under the ``top_k``-th largest of its row set to 0; not normalised again."""
    smallest_B1 = torch.topk(probs_BV, top_k, -1).values[:, -1:]
    return torch.where(probs_BV >= smallest_B1, probs_BV, 0.0)


def keep_top_p(probs_BV: Tensor, top_p: float) -> Tensor:
    """``probs`` with all but the smallest set of largest entries that holds ``top_p`` of its row's mass set to 0.

    Looks at the largest few entries first and at more only where they do not hold enough: no sort of the vocabulary.
    """
    vocab = probs_BV.shape[-1]
    wanted_B1 = probs_BV.sum(-1, keepdim=True, dtype=torch.float64) * top_p
    width = min(_FIRST_WINDOW, vocab)
    while True:
        largest_BW = torch.topk(probs_BV, width, -1).values
        mass_BW = torch.cumsum(largest_BW, -1, dtype=torch.float64)
        if width == vocab or bool((mass_BW[:, -1:] >= wanted_B1).all()):
            break
        width = min(4 * width, vocab)
    num_kept_B1 = ((mass_BW - largest_BW) < wanted_B1).sum(-1, keepdim=True).clamp_min(1)
    smallest_B1 = largest_BW.gather(-1, num_kept_B1 - 1)
    return torch.where(probs_BV >= smallest_B1, probs_BV, 0.0)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)
