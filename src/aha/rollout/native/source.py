"""A decoder's weights by name, copied into the sampler's storage with errors that say which tensor does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from aha.errors import CheckpointError
from aha.model.moe import ROUTER_BIAS


class Source:
    """The parameters of ``decoder``, and the biases of its routers; copies are ``rounded`` to a type if given."""

    def __init__(self, decoder: nn.Module, *, rounded: torch.dtype | None = None) -> None:
        self._rounded = rounded
        self._tensors: Mapping[str, Tensor] = dict(decoder.named_parameters()) | dict(decoder.named_buffers())

    def copy(self, name: str, into: Tensor, rows: Tensor | None = None) -> None:
        """Overwrites ``into`` with the tensor, its ``rows`` in that order if given."""
        tensor = self.find(name, into.shape)
        if self._rounded is not None and not name.endswith(ROUTER_BIAS):
            tensor = tensor.to(self._rounded)
        into.copy_(tensor if rows is None else tensor[rows.to(tensor.device)])

    def find(self, name: str, shape: Sequence[int]) -> Tensor:
        """The decoder's own tensor. ``CheckpointError`` where there is none, or of another shape."""
        if name not in self._tensors:
            raise CheckpointError(f"decoder has no {name}, which the sampler's config has: build both from one config")
        tensor = self._tensors[name].detach()
        if tensor.shape != torch.Size(shape):
            raise CheckpointError(
                f"{name} is {tuple(tensor.shape)} in the decoder but {tuple(shape)} by the sampler's config: "
                f"build both from one config"
            )
        return tensor


def interleaved(width: int) -> Tensor:
    """Which dimension stands where when the two halves that rotation pairs are interleaved: ``0 2 1 3`` for 4."""
    return torch.arange(width).view(2, width // 2).t().flatten()
