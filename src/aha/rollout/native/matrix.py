"""A weight matrix as the sampler multiplies with it: in int8, or floats, which oneDNN packs on a CPU once a version.

``torch.mm`` packs a matrix anew for every product, which for few rows costs as much as the product. The operations are
those that PyTorch's own compiler calls on a CPU. B rows, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from aha.rollout.native import int8

_TYPICAL_ROWS = 64  # any number may be multiplied with what is packed for these


class Floats:
    """Stored by ``empty`` or, packed, by oneDNN; where rows are looked up it stays ``plain``."""

    def __init__(self, O: int, I: int, empty: Callable[..., Tensor], *, plain: bool = False) -> None:  # noqa: E741
        self._shape, self._empty = (O, I), empty
        self._weight = empty(O, I)
        self._packs = not plain and _can_pack(self._weight)

    @contextmanager
    def rewrite(self) -> Iterator[Tensor]:
        """The plain ``[O, I]``, whose every number is to be overwritten."""
        plain = self._empty(*self._shape) if self._packs else self._weight
        yield plain
        if self._packs:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(plain, _TYPICAL_ROWS)

    def plain(self) -> Tensor:
        """``[O, I]``."""
        return self._weight.to_dense() if self._weight.is_mkldnn else self._weight

    def read(self) -> list[tuple[str, Tensor]]:
        """What it consists of, outputs first, each with what its name has behind the matrix's."""
        return [("", self.plain())]

    def rows(self, ids_B: Tensor) -> Tensor:
        """``[B, I]``: the weights of the outputs ``ids_B``, which an embedding is."""
        return F.embedding(ids_B, self.plain())

    def of(self, x_BI: Tensor, bias_O: Tensor | None = None) -> Tensor:
        """``[B, O]``."""
        if self._packs:
            product: Tensor = torch.ops.mkldnn._linear_pointwise.default(x_BI, self._weight, bias_O, "none", [], "")
            return product
        return F.linear(x_BI, self._weight, bias_O)

    def add(self, to_BO: Tensor, x_BI: Tensor) -> Tensor:
        """``to_BO`` and what it makes of ``x_BI``, in a new tensor."""
        if self._packs:
            total: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x_BI, to_BO, self._weight, None, "add")
            return total
        return torch.addmm(to_BO, x_BI, self._weight.t())

    def as_head(self) -> Floats:
        """A plain one to multiply with: a packed copy, or where none can be, the same numbers."""
        head = Floats(*self._shape, lambda *_: self._weight)
        with head.rewrite():
            return head  # rewritten with what they are


class Int8:
    """Whole numbers and the outputs' steps; products are summed exactly, and come out in the type of ``x``."""

    def __init__(self, O: int, I: int) -> None:  # noqa: E741
        self._numbers_OI, self._step_O = torch.empty(O, I, dtype=torch.int8), torch.empty(O)

    @contextmanager
    def rewrite(self) -> Iterator[Tensor]:
        """A float32 ``[O, I]``, whose every number is to be overwritten; they are made whole after that."""
        plain = torch.empty(self._numbers_OI.shape)
        yield plain
        self._numbers_OI, self._step_O = int8.quantise(plain)

    def read(self) -> list[tuple[str, Tensor]]:
        """What it consists of, outputs first, each with what its name has behind the matrix's."""
        return [("", self._numbers_OI), (int8.STEP, self._step_O)]

    def rows(self, ids_B: Tensor) -> Tensor:
        """``[B, I]``: the weights of the outputs ``ids_B``, which an embedding is."""
        return (F.embedding(ids_B, self._numbers_OI) * self._step_O[ids_B, None]).to(int8.REST)

    def of(self, x_BI: Tensor, bias_O: Tensor | None = None) -> Tensor:
        """``[B, O]``."""
        made = int8.multiply(x_BI, self._numbers_OI, self._step_O)
        return (made if bias_O is None else made + bias_O).to(x_BI.dtype)

    def add(self, to_BO: Tensor, x_BI: Tensor) -> Tensor:
        """``to_BO`` and what it makes of ``x_BI``, in a new tensor."""
        return (to_BO + int8.multiply(x_BI, self._numbers_OI, self._step_O)).to(to_BO.dtype)

    def as_head(self) -> Int8:
        """Itself: it multiplies as it looks rows up."""
        return self


def _can_pack(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):  # private to PyTorch
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


Matrix = Floats | Int8
Make = Callable[[int, int], Matrix]  # of so many outputs and inputs, not filled
