"""How much each token of a sequence counts. Shape: B sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from aha.errors import InvariantError

Aggregation = Literal["sequence", "token", "constant", "sum"]


def token_weights(
    lengths_B: Sequence[int] | Tensor, aggregation: Aggregation, *, constant: float | None = None
) -> Tensor:
    """The weight of every token of each sequence, [B]; the step divides the weighted sum by its number of sequences.

    ``lengths_B`` are the completion lengths, in tokens, of ALL sequences of the step, also of those that are then left
    out because their advantage is 0. "sequence" is 1 / length: mean over the tokens, then over the sequences
    (DeepSeekMath, 2402.03300, equation 3). "token" is B / sum of lengths: after the division by B every token of the
    step counts the same (DAPO, 2503.14476, equation 8). "constant" is 1 / ``constant``, the longest length that is
    allowed (Dr. GRPO, 2503.20783). "sum" is 1: the log-prob of the whole sequence (REINFORCE). A length below 1 raises
    InvariantError.
    """
    lengths = torch.as_tensor(lengths_B, dtype=torch.float64)
    if lengths.numel() and lengths.min() < 1:
        raise InvariantError(f"sequence {int(lengths.argmin())} has {int(lengths.min())} completion tokens; need 1")
    if aggregation == "sequence":
        return 1 / lengths
    if aggregation == "token":
        return (lengths.numel() / lengths.sum()).expand_as(lengths)
    if aggregation == "constant":
        if constant is None:
            raise InvariantError("aggregation 'constant' without the longest length that is allowed")
        return torch.full_like(lengths, 1 / constant)
    return torch.ones_like(lengths)
