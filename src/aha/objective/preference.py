"""Losses that learn a score from comparisons. Shape: B pairs."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bradley_terry_loss(chosen_B: Tensor, rejected_B: Tensor) -> Tensor:
    """``-log sigmoid(chosen - rejected)`` per pair, [B]: ln 2 for equal scores.

    Source: the pairwise loss of R1's helpfulness reward model, DeepSeek-R1 (2501.12948v2) section 3.1.
    """
    return -F.logsigmoid(chosen_B - rejected_B)
