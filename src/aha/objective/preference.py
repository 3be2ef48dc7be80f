"""Losses that learn a score from judgements. Shape: B pairs, or B texts with a label each."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bradley_terry_loss(chosen_B: Tensor, rejected_B: Tensor, margin_B: Tensor | float = 0.0) -> Tensor:
    """``-log sigmoid(chosen - rejected - margin)`` per pair, [B]: ln 2 for scores that differ by the margin.

    Source: the pairwise loss of R1's helpfulness reward model, DeepSeek-R1 (2501.12948v2) section 3.1; a margin that
    grows with how clearly a pair was judged: Llama 2 (2307.09288) equation 2.
    """
    return -F.logsigmoid(chosen_B - rejected_B - margin_B)


def pointwise_loss(score_B: Tensor, label_B: Tensor) -> Tensor:
    """Binary cross-entropy of ``sigmoid(score)`` with labels in [0, 1], [B]: ln 2 for a score of 0.

    Source: the point-wise loss of R1's safety reward model, DeepSeek-R1 (2501.12948v2) section 3.1.
    """
    return F.binary_cross_entropy_with_logits(score_B, label_B.to(score_B.dtype), reduction="none")
