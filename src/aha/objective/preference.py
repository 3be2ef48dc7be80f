"""Losses that learn a score from comparisons or labels. Shapes: B pairs, N labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bradley_terry_loss(chosen_B: Tensor, rejected_B: Tensor) -> Tensor:
    """``-log sigmoid(chosen - rejected)`` per pair, [B]: ln 2 for equal scores.

    Source: the pairwise loss of R1's helpfulness reward model, DeepSeek-R1 (2501.12948v2) section 3.1.
    """
    return -F.logsigmoid(chosen_B - rejected_B)


def label_loss(logits_N: Tensor, labels_N: Tensor) -> Tensor:
    """Binary cross-entropy of each label, [N]: a label is a chance from 0 to 1, ln 2 for a logit of 0.

    Source: soft Monte-Carlo labels of steps, Snell et al. (2408.03314) appendix D, after Math-Shepherd (2312.08935).
    """
    return F.binary_cross_entropy_with_logits(logits_N, labels_N.to(logits_N.dtype), reduction="none")
