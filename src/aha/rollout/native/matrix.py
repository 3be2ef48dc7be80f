"""A weight matrix as the sampler multiplies with it: on a CPU packed by oneDNN once a version, elsewhere as it is.

``torch.mm`` packs a matrix anew for every product, which for few rows costs as much as the product. The operations are
those that PyTorch's own compiler calls on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

_TYPICAL_ROWS = 64  # any number may be multiplied with what is packed for these


class Matrix:
    """``O`` numbers from ``I`` each, stored by ``empty`` or, packed, by oneDNN."""

    def __init__(self, O: int, I: int, empty: Callable[..., Tensor]) -> None:  # noqa: E741
        self._shape, self._empty = (O, I), empty
        self._weight = empty(O, I)
        self._packed = _can_pack(self._weight)

    @contextmanager
    def rewrite(self) -> Iterator[Tensor]:
        """The plain ``[O, I]``, whose every number is to be overwritten."""
        plain = self._empty(*self._shape) if self._packed else self._weight
        yield plain
        if self._packed:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(plain, _TYPICAL_ROWS)

    def read(self) -> Tensor:
        """The plain ``[O, I]``."""
        return self._weight.to_dense() if self._weight.is_mkldnn else self._weight

    def of(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """``[B, O]`` of ``x`` ``[B, I]``."""
        if self._packed:
            product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, bias, "none", [], "")
            return product
        return F.linear(x, self._weight, bias)

    def add(self, to: Tensor, x: Tensor) -> Tensor:
        """``to`` ``[B, O]`` and what it makes of ``x`` ``[B, I]``, in a new tensor."""
        if self._packed:
            total: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, to, self._weight, None, "add")
            return total
        return torch.addmm(to, x, self._weight.t())


def _can_pack(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32
