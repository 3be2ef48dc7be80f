"""Losses that learn a score from judgements. Shapes: B pairs, N labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bradley_terry_loss(chosen_B: Tensor, rejected_B: Tensor, margin_B: Tensor | float = 0.0) -> Tensor:
    """``-log sigmoid(chosen - rejected - margin)`` per pair, [B]: ln 2 for scores that differ by the margin.

    Source: the pairwise loss of R1's helpfulness reward model, DeepSeek-R1 (2501.12948v2) section 3.1; a margin that
    grows with how clearly a pair was judged: Llama 2 (2307.09288) equation 2.
    """
    return -F.logsigmoid(chosen_B - rejected_B - margin_B)


def pointwise_loss(score_N: Tensor, label_N: Tensor) -> Tensor:
    """Binary cross-entropy of ``sigmoid(score)`` with labels in [0, 1], [N]: ln 2 for a score of 0.

    Source: the point-wise loss of R1's safety reward model, DeepSeek-R1 (2501.12948v2) section 3.1; soft Monte-Carlo
    labels of steps: Snell et al. (2408.03314) appendix D, after Math-Shepherd (2312.08935).
    """
    return F.binary_cross_entropy_with_logits(score_N, label_N.to(score_N.dtype), reduction="none")
