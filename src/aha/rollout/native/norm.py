"""A norm by the root mean square (Zhang and Sennrich 2019, 1910.07467) as the sampler computes it.

B tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from aha.rollout.native.workspace import Workspace


class Norm:
    """``x / sqrt(mean(x**2) + eps) * weight``, in float32 inside.

    PyTorch has no kernel for it on a CPU: ``F.rms_norm`` is some ten operations there, which for few rows cost as much
    as a small product. As ``x / sqrt(sum(x**2) + D eps) * (sqrt(D) weight)`` it is four, and in place three.
    """

    def __init__(self, width: int, eps: float, empty: Callable[..., Tensor]) -> None:
        self._eps = eps
        self.weight_D = empty(width)
        self._gain_D = torch.empty(width, device=self.weight_D.device)
        self._least = torch.tensor(math.sqrt(width * eps), device=self.weight_D.device)

    @contextmanager
    def rewrite(self) -> Iterator[Tensor]:
        """The weight ``[D]``, whose every number is to be overwritten."""
        yield self.weight_D
        self._gain_D.copy_(self.weight_D).mul_(math.sqrt(len(self.weight_D)))

    def of(self, x_BD: Tensor) -> Tensor:
        """``[B, D]``."""
        if not x_BD.is_cpu:
            return F.rms_norm(x_BD, self.weight_D.shape, self.weight_D, self._eps)
        exact_BD = x_BD.float()
        size_B1 = torch.linalg.vector_norm(exact_BD, 2, -1, True).hypot_(self._least)
        return torch.div(exact_BD, size_B1).mul_(self._gain_D).to(x_BD.dtype)

    def write(self, space: Workspace) -> None:
        """``space.normed_BD`` of ``space.x_BD``; eps is the model's, which stands in ``space.padded_BX``."""
        torch.linalg.vector_norm(space.padded_BX, 2, -1, True, out=space.size_B1)
        torch.div(space.x_BD, space.size_B1, out=space.normed_BD).mul_(self._gain_D)
