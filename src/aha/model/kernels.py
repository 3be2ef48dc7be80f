"""The compiled functions of ``kernels.c`` on tensors: what a step does beside its matrix products, in one pass each.

Each takes contiguous tensors on the CPU, all float32 or all bfloat16 where it does not say otherwise. Callers ask
:func:`usable` first and compute the same with PyTorch where it says no: that is the reference the tests hold these to.

Axes: ``M`` rows, ``D`` width, ``N`` heads, ``H`` head width, ``V`` vocabulary.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aha.util.ccompile import load_library

_SOURCE = Path(__file__).with_name("kernels.c")
_BLOCK = 64  # BLOCK of kernels.c
_SIGNATURES = {  # p a tensor or none, i an integer, f a float; the type of the numbers and the threads follow
    "norm_forward": "ppppppiif",
    "norm_again": "ppppii",
    "norm_backward": "pppppppii",
    "swiglu_forward": "pppii",
    "swiglu_backward": "pppppii",
    "rotate_heads": "ppppiiiif",
    "read_rows": "ppfpppii",
    "pull_rows": "pppfppii",
    "sum_bits": "piip",
    "adamw": "pppppiffffffi",
}
_TYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float}


def usable(*tensors: Tensor) -> bool:
    """Whether the kernels are there and take these."""
    dtype = tensors[0].dtype
    return (
        dtype in (torch.float32, torch.bfloat16)
        and all(x.dtype == dtype and x.device.type == "cpu" for x in tensors)
        and available()
    )


def available() -> bool:
    """Whether there is a compiler, or was one."""
    return load_library(_SOURCE) is not None


def _call(name: str, like: Tensor, *values: Tensor | int | float | None) -> None:
    library = load_library(_SOURCE)
    assert library is not None
    function: Any = getattr(library, name)
    if function.argtypes is None:
        function.argtypes = [*(_TYPES[c] for c in _SIGNATURES[name]), ctypes.c_int64, ctypes.c_int64]
        function.restype = None
    passed = [x.data_ptr() if isinstance(x, Tensor) else x for x in values]
    function(*passed, like.dtype == torch.bfloat16, torch.get_num_threads())


def norm_forward(x: Tensor, add: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """``x`` or ``x + add``, its RMSNorm, and what each row was multiplied with ``[...]``."""
    D = x.shape[-1]
    y, scale = torch.empty_like(x), x.new_empty(x.shape[:-1], dtype=torch.float32)
    total = x if add is None else torch.empty_like(x)
    _call("norm_forward", x, x, add, weight, total, y, scale, scale.numel(), D, eps)
    return total, y, scale


def norm_again(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """The norm that ``norm_forward`` gave, the same bits."""
    y = torch.empty_like(x)
    _call("norm_again", x, x, weight, scale, y, scale.numel(), x.shape[-1])
    return y


def norm_backward(
    grad: Tensor, more: Tensor | None, x: Tensor, weight: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of ``x``, with ``more`` added, and of ``weight``."""
    M, D = scale.numel(), x.shape[-1]
    grad_x, blocks = torch.empty_like(x), x.new_empty(-(-M // _BLOCK), D, dtype=torch.float32)
    _call("norm_backward", x, grad, more, x, weight, scale, grad_x, blocks, M, D)
    return grad_x, blocks.sum(0).to(weight.dtype)


def swiglu_forward(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``."""
    y, D = torch.empty_like(gate), gate.shape[-1]
    _call("swiglu_forward", gate, gate, up, y, gate.numel() // D, D)
    return y


def swiglu_backward(gate: Tensor, up: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of ``gate`` and ``up``; ``grad`` is overwritten with ``silu(gate) * up``."""
    grad_gate, grad_up, D = torch.empty_like(gate), torch.empty_like(up), gate.shape[-1]
    _call("swiglu_backward", gate, gate, up, grad, grad_gate, grad_up, gate.numel() // D, D)
    return grad_gate, grad_up


def rotate_heads(x_BTNH: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> Tensor:
    """``rope.rotate`` with ``cos`` and ``sin`` ``[B, T, 1, H]``, or ``[T, 1, H]`` for all sequences; or its inverse."""
    y, (N, H) = torch.empty_like(x_BTNH), x_BTNH.shape[-2:]
    M, R = x_BTNH.numel() // (N * H), cos.numel() // H
    _call("rotate_heads", x_BTNH, x_BTNH, cos, sin, y, M, R, N, H, -1.0 if back else 1.0)
    return y


def read_rows(logits_MV: Tensor, targets_M: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Log-prob of each row's target under ``softmax(logits / temperature)``, entropy, and the log of the sum of
    exponentials, each ``[M]`` in float32."""
    M, V = logits_MV.shape
    logp, entropy, lse = (logits_MV.new_empty(M, dtype=torch.float32) for _ in range(3))
    _call("read_rows", logits_MV, logits_MV, targets_M, 1 / temperature, logp, entropy, lse, M, V)
    return logp, entropy, lse


def pull_rows(
    logits_MV: Tensor, targets_M: Tensor, temperature: float, lse_M: Tensor, grad_M: Tensor, *, out: Tensor
) -> Tensor:
    """The gradient of the logits where that of each log-prob is ``grad_M``, written to ``out``, which may be they."""
    _call("pull_rows", logits_MV, logits_MV, out, targets_M, 1 / temperature, lse_M, grad_M, *logits_MV.shape)
    return out


def sum_bits(x: Tensor, first: int, sums_2: Tensor) -> None:
    """Adds to ``sums_2``, modulo 2^64, the sum of the numbers' bits and that of ``(bits^2 + bits) (2 place + 1)``; the
    first number's place is ``first``."""
    _call("sum_bits", x, x, x.numel(), first, sums_2)


def adamw(
    weight: Tensor,
    lower: Tensor | None,
    first: Tensor,
    second: Tensor,
    grad: Tensor,
    *,
    step: float,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """Update number ``step``, in place. ``weight`` is float32, or BF16 with the ``lower`` half of train/halves.py;
    moments are float32 or BF16, and so is ``grad``, which is BF16 only where ``lower`` is given."""
    unbiased = [1 - beta**step for beta in betas]
    _call(
        "adamw", grad, weight, lower, first, second, grad, weight.numel(), lr / unbiased[0], 1 - lr * weight_decay,
        *betas, eps, unbiased[1] ** -0.5, first.dtype == torch.bfloat16,
    )  # fmt: skip
