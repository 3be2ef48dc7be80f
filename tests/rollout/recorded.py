"""A CUDA graph without CUDA: what a captured step may do, and what its replay does, on a CPU.

While a step is captured every operation is noted with the very tensors that it read and wrote, and what it changed is
put back. A replay runs the same operations on the same tensors, so that nothing that Python decided meanwhile reaches
it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# They read numbers back to Python, have shapes that depend on numbers, or copy numbers from the host.
REFUSED = (
    "_local_scalar_dense", "is_nonzero", "nonzero", "bincount", "masked_select", "_unique2", "lift_fresh",
    "scalar_tensor",
)  # fmt: skip


class RecordedGraph:
    """What ``torch.cuda.CUDAGraph`` is to its callers."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, noted in self.calls:
            made = func(*args, **kwargs)
            for old, new in zip(_tensors(noted), _tensors(made), strict=True):
                if _place(new) not in {_place(x) for x in _tensors((args, kwargs))}:
                    old.copy_(new)


@contextmanager
def recording(graph: RecordedGraph, **_: Any) -> Iterator[None]:
    """What ``torch.cuda.graph`` is to its callers."""
    recorder = _Recorder(graph)
    with recorder:
        yield
    for tensor, before in recorder.changed:
        tensor.untyped_storage().copy_(before)


class _Recorder(TorchDispatchMode):
    def __init__(self, graph: RecordedGraph) -> None:
        super().__init__()
        self._graph = graph
        self._known: set[int] = set()
        self.changed: list[tuple[Tensor, torch.UntypedStorage]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        assert name not in REFUSED, f"{func} cannot be captured"
        assert name != "where" or "Scalar" not in func._overloadname, f"{func} cannot be captured"
        for tensor in _tensors((args, kwargs)):
            if _place(tensor) not in self._known:
                self._known.add(_place(tensor))
                self.changed.append((tensor, tensor.untyped_storage().clone()))
            if name in ("index", "index_put_"):
                assert tensor.dtype != torch.bool or tensor is args[0], "a mask as an index asks how much it selects"
        made = func(*args, **kwargs)
        self._known |= {_place(tensor) for tensor in _tensors(made)}
        self._graph.calls.append((func, args, kwargs, made))
        return made


class OneDevice(TorchDispatchMode):
    """No operation reads or makes a tensor of another device than this."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        devices = {tensor.device.type for tensor in _tensors((args, kwargs, made))}
        assert devices <= {self._device}, f"{func} on {devices}"
        return made


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [x for part in tree for x in _tensors(part)] if isinstance(tree, list | tuple) else []


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
