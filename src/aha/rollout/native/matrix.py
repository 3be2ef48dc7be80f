"""A weight matrix as the sampler multiplies with it: floats as oneDNN packs them on a CPU once a version, floats by
panels that threads share, or int8.

``torch.mm`` packs a matrix anew for every product, which for few rows costs as much as the product. oneDNN's operations
are those that PyTorch's own compiler calls on a CPU. B rows, I inputs, O outputs, P parts of W outputs each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from aha.rollout.native import int8

PANEL = 64
_TYPICAL_ROWS = 64  # any number may be multiplied with what oneDNN has packed for these
_PANEL_NUMBERS = 1 << 21  # larger matrices oneDNN shares among threads as well


class Floats:
    """Stored by ``empty`` or, packed, by oneDNN; where rows are looked up it stays ``plain``."""

    def __init__(
        self, O: int, I: int, empty: Callable[..., Tensor], *, width: int = PANEL, plain: bool = False  # noqa: E741
    ) -> None:
        self._shape, self._width, self._empty = (O, I), width, empty
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

    def parts(self, x_BI: Tensor, bias_O: Tensor | None = None) -> Tensor:
        """The same as ``[B, P, W]``."""
        return self.of(x_BI, bias_O).view(len(x_BI), -1, self._width)

    def add(self, to_BO: Tensor, x_BI: Tensor) -> Tensor:
        """``to_BO`` and what it makes of ``x_BI``, in a new tensor."""
        if self._packs:
            total: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x_BI, to_BO, self._weight, None, "add")
            return total
        return torch.addmm(to_BO, x_BI, self._weight.t())

    def as_head(self) -> Floats | Panels:
        """A plain one to multiply with: a packed copy, or where none can be, the same numbers."""
        head = floats(*self._shape, lambda *_: self._weight)
        with head.rewrite():
            return head  # rewritten with what they are


class Panels:
    """Multiplied W outputs at a time, whose weights lie side by side: one batched product, which threads share. Of a
    few rows' product by oneDNN a second thread has nothing."""

    def __init__(self, O: int, I: int, empty: Callable[..., Tensor], width: int) -> None:  # noqa: E741
        self._shape, self._width, self._empty = (O, I), width, empty
        self._panels_PIW = empty(0, I, width)

    @contextmanager
    def rewrite(self) -> Iterator[Tensor]:
        """The plain ``[O, I]``, whose every number is to be overwritten."""
        plain = self._empty(*self._shape)
        yield plain
        self._panels_PIW = plain.view(-1, self._width, self._shape[1]).transpose(1, 2).contiguous()

    def plain(self) -> Tensor:
        """``[O, I]``."""
        return self._panels_PIW.transpose(1, 2).reshape(self._shape)

    def read(self) -> list[tuple[str, Tensor]]:
        """What it consists of, outputs first, each with what its name has behind the matrix's."""
        return [("", self.plain())]

    def of(self, x_BI: Tensor, bias_O: Tensor | None = None) -> Tensor:
        """``[B, O]``."""
        return self.parts(x_BI, bias_O).reshape(len(x_BI), -1)

    def parts(self, x_BI: Tensor, bias_O: Tensor | None = None) -> Tensor:
        """The same as ``[B, P, W]``, a view of ``[P, B, W]``."""
        x_PBI = x_BI.expand(len(self._panels_PIW), -1, -1)
        if bias_O is None:
            return torch.bmm(x_PBI, self._panels_PIW).transpose(0, 1)
        return torch.baddbmm(bias_O.view(-1, 1, self._width), x_PBI, self._panels_PIW).transpose(0, 1)

    def write(self, into_PBW: Tensor, x_PBI: Tensor, bias_P1W: Tensor | None = None) -> None:
        """What it makes of the same ``x`` for each panel."""
        if bias_P1W is None:
            torch.bmm(x_PBI, self._panels_PIW, out=into_PBW)
        else:
            torch.baddbmm(bias_P1W, x_PBI, self._panels_PIW, out=into_PBW)

    def add(self, to_BO: Tensor, x_BI: Tensor) -> Tensor:
        """``to_BO`` and what it makes of ``x_BI``, in a new tensor."""
        parts_BPW = self.parts(x_BI)
        total_BPW = torch.add(to_BO.view(parts_BPW.shape), parts_BPW)  # laid out as the first of them
        return total_BPW.view(to_BO.shape)


class Int8:
    """Whole numbers and the outputs' steps; products are summed exactly, and come out in the type of ``x``."""

    def __init__(self, O: int, I: int, *, width: int = PANEL) -> None:  # noqa: E741
        self._numbers_OI, self._step_O = torch.empty(O, I, dtype=torch.int8), torch.empty(O)
        self._width = width

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

    def parts(self, x_BI: Tensor, bias_O: Tensor | None = None) -> Tensor:
        """The same as ``[B, P, W]``."""
        return self.of(x_BI, bias_O).view(len(x_BI), -1, self._width)

    def add(self, to_BO: Tensor, x_BI: Tensor) -> Tensor:
        """``to_BO`` and what it makes of ``x_BI``, in a new tensor."""
        return (to_BO + int8.multiply(x_BI, self._numbers_OI, self._step_O)).to(to_BO.dtype)

    def as_head(self) -> Int8:
        """Itself: it multiplies as it looks rows up."""
        return self


def floats(O: int, I: int, empty: Callable[..., Tensor], *, width: int = PANEL) -> Floats | Panels:  # noqa: E741
    """By panels of ``width`` where that is faster; ``parts`` are as wide in any case."""
    by_panels = O * I <= _PANEL_NUMBERS and O % width == 0 and _panels_pay(empty(0))
    return Panels(O, I, empty, width) if by_panels else Floats(O, I, empty, width=width)


def part_of(width: int) -> int:
    """How wide the parts of a matrix are that has a multiple of ``width`` outputs."""
    return width if width % PANEL else PANEL


def _panels_pay(weight: Tensor) -> bool:
    """In float32 with AVX2, where products of all batches are one call of MKL."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        return False
    return bool(torch.backends.cpu.get_cpu_capability() == "AVX2")


def _can_pack(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):  # private to PyTorch
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


Matrix = Floats | Panels | Int8


class Make(Protocol):
    """A matrix of so many outputs and inputs, not filled."""

    def __call__(self, O: int, I: int, /, *, width: int = PANEL) -> Matrix: ...  # noqa: E741
