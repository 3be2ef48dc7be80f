"""Which drafted tokens are kept, so that what is sampled has exactly the model's distribution.

Speculative sampling (Leviathan, Kalman, Matias 2023, theorem 1; Chen et al. 2023): a token x that was drawn from q is
kept with probability ``min(1, p(x) / q(x))``; in place of the first that is not, one is drawn from what p has over q,
``(p - q)+`` normalised, and all later drafts are forgotten. Where every draft is kept, one more token is drawn from p.

B rows, K drafts, T = K + 1 places, V vocabulary. Token i of a sequence has three uniform numbers of its own: ``3 i`` is
for drafting it, ``3 i + 1`` for keeping the draft, ``3 i + 2`` for drawing it anew. None depends on another row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aha.rollout.native.sampler import draw, probabilities, uniforms


def draft(
    logits_BV: Tensor, seeds_B: Tensor, index_B: Tensor, *, temperature: float, top_k: int, top_p: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws token ``index`` of each row: ids [B], normalised probabilities [B, V], and whether the logits were finite.

    At temperature 0 the ids are the most likely ones, and nobody needs probabilities: they are empty.
    """
    if temperature == 0.0:
        largest_B, tokens_B = logits_BV.max(-1)
        return tokens_B, logits_BV.new_zeros(len(logits_BV), 0), largest_B.isfinite()
    probs_BV = probabilities(logits_BV, temperature=temperature, top_k=top_k, top_p=top_p)
    tokens_B1, total_B1 = draw(probs_BV, uniforms(seeds_B, 3 * index_B))
    return tokens_B1.squeeze(-1), probs_BV / total_B1, total_B1.squeeze(-1).isfinite()


def verify(
    logits_BTV: Tensor,
    drafts_BK: Tensor,
    draft_probs_BKV: Tensor,
    seeds_B: Tensor,
    index_B: Tensor,
    *,
    temperature: float,
    top_k: int,
    top_p: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens [B, T], their float32 log-probabilities [B, T] under the model's distribution, and drafts kept [B].

    ``logits_BTV`` are the model's at the drafts' places and behind the last, ``index`` the first draft's token. Of a
    row that keeps a drafts, the first a + 1 tokens are sampled and the rest mean nothing. At temperature 0 a draft is
    kept where it is the most likely token. Where logits that matter are not finite, the log-probability is NaN.
    """
    B, T, V = logits_BTV.shape
    if temperature == 0.0:
        largest_BT, tokens_BT = logits_BTV.max(-1)
        kept_B = (tokens_BT[:, :-1] == drafts_BK).cumprod(1).sum(1)
        return tokens_BT, (largest_BT - largest_BT).to(torch.float32), kept_B
    flat = probabilities(logits_BTV.flatten(0, 1), temperature=temperature, top_k=top_k, top_p=top_p)
    probs_BTV = flat.view(B, T, V)
    total_BT = probs_BTV.sum(-1, dtype=torch.float64)
    index_BT = 3 * (index_B[:, None] + torch.arange(T, device=index_B.device))
    seeds_BT = seeds_B[:, None].expand(B, T)
    wanted_BK = probs_BTV[:, :-1].gather(-1, drafts_BK[..., None]).squeeze(-1) / total_BT[:, :-1]
    offered_BK = draft_probs_BKV.gather(-1, drafts_BK[..., None]).squeeze(-1)
    keep_BK = uniforms(seeds_BT[:, 1:], index_BT[:, :-1] + 1) * offered_BK < wanted_BK
    kept_B = keep_BK.cumprod(1).sum(1)

    rows_B = torch.arange(B, device=kept_B.device)
    after_BV = probs_BTV[rows_B, kept_B] / total_BT[rows_B, kept_B, None]
    rejected_BV = draft_probs_BKV[rows_B, kept_B.clamp_max(T - 2)] * (kept_B < T - 1)[:, None]
    left_BV = (after_BV - rejected_BV).clamp_min_(0)
    # Rounding may leave nothing where p and q are equal, which in exact numbers rejects nothing.
    left_BV = torch.where(left_BV.sum(-1, keepdim=True) > 0, left_BV, after_BV)
    drawn_B1, _ = draw(left_BV, uniforms(seeds_B, index_BT[rows_B, kept_B] + 2))
    tokens_BT = torch.cat((drafts_BK, drawn_B1), 1).scatter_(1, kept_B[:, None], drawn_B1)
    logprobs_BT = torch.log(probs_BTV.gather(-1, tokens_BT[..., None]).squeeze(-1)) - torch.log(total_BT)
    return tokens_BT, logprobs_BT.to(torch.float32), kept_B
