"""Matrix products of many rows with a weight, and linear maps that read the same rows."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from aha.model.norm import Made

_WIDE_NUMBERS = 2**17  # of a factor that are in float32 at a time, where it is BF16
_WIDE_INNER = 512  # of what is summed over at a time, where it is more than twice that: narrow pieces multiply slowly


def product(x_MK: Tensor, weight_NK: Tensor) -> Tensor:
    """``x @ weight.T``. In float32 on a CPU with AVX-512 by oneDNN, 5 to 12 % faster than ``torch.mm``, where it is to
    be had (with AVX2 it is 10 to 30 % slower); in BF16 on a processor without instructions for it by float32, 8 to 25
    times as fast.

    The operation is private to PyTorch, hence the trial; its sums have another order than those of ``torch.mm``.
    """
    if is_widened(x_MK.dtype, x_MK.device):
        return _widened(x_MK, weight_NK, x_MK.new_empty(len(x_MK), len(weight_NK)))
    if x_MK.dtype == torch.float32 and x_MK.device.type == "cpu" and min(x_MK.shape) >= 16 and _onednn_pays():
        return _onednn(x_MK, weight_NK)
    return x_MK @ weight_NK.T


def add_product(to_MN: Tensor, x_MK: Tensor, weight_NK: Tensor) -> Tensor:
    """``to`` with ``x @ weight.T`` added in place."""
    if is_widened(x_MK.dtype, x_MK.device):
        return _widened(x_MK, weight_NK, to_MN, add=True)
    return to_MN.addmm_(x_MK, weight_NK.T)


def weight_gradient(grad_MN: Tensor, x_MK: Tensor) -> Tensor:
    """``grad.T @ x``."""
    if is_widened(x_MK.dtype, x_MK.device):
        return _widened(grad_MN.T, x_MK.T, x_MK.new_empty(grad_MN.shape[1], x_MK.shape[1]))
    return grad_MN.T @ x_MK


def _widened(x_MK: Tensor, weight_NK: Tensor, into_MN: Tensor, *, add: bool = False) -> Tensor:
    """The product, rounded once, written or added; of no factor nor of what they make is there much in float32."""
    rows, outputs, inner = _pieces(len(x_MK), len(weight_NK), x_MK.shape[1])
    whole = inner >= x_MK.shape[1]
    for weight_nK, into_Mn in zip(torch.split(weight_NK, outputs), torch.split(into_MN, outputs, 1), strict=True):
        wide_Kn = weight_nK.float().T if whole else None
        for x_mK, into_mn in zip(torch.split(x_MK, rows), torch.split(into_Mn, rows), strict=True):
            made_mn = _summed(x_mK, weight_nK, inner) if wide_Kn is None else x_mK.float() @ wide_Kn
            into_mn.copy_(made_mn.add_(into_mn) if add else made_mn)
            del made_mn  # before the next is made
    return into_MN


def _summed(x_mK: Tensor, weight_nK: Tensor, inner: int) -> Tensor:
    """The product in float32, a piece of the sums at a time."""
    made_mn = torch.zeros(len(x_mK), len(weight_nK))
    for x_mk, weight_nk in zip(torch.split(x_mK, inner, 1), torch.split(weight_nK, inner, 1), strict=True):
        made_mn.addmm_(x_mk.float(), weight_nk.float().T)
    return made_mn


def _pieces(M: int, N: int, K: int) -> tuple[int, int, int]:
    """Rows, outputs and inputs at a time."""
    inner = _WIDE_INNER if K > 2 * _WIDE_INNER else K
    outputs = max(1, min(N, _WIDE_NUMBERS // max(1, inner)))
    return max(1, min(M, _WIDE_NUMBERS // max(1, inner, outputs))), outputs, inner


def count_widened(M: int, N: int, K: int) -> int:
    """Numbers of float32 that a product of widened ``[M, K]`` and ``[N, K]`` holds."""
    rows, outputs, inner = _pieces(M, N, K)
    return rows * inner + outputs * inner + rows * outputs


def is_widened(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether to compute in float32 because it is BF16 on a processor that multiplies none."""
    return dtype == torch.bfloat16 and device.type == "cpu" and not _multiplies_bf16()


def linear(x: Tensor, *maps: nn.Linear) -> tuple[Tensor, ...]:
    """What each of ``maps`` makes of ``x`` ``[..., K]``; one backward pass for all, which sums ``x``'s gradient in
    place."""
    parts: tuple[Tensor, ...] = _Linear.apply(x, made_of(x), *(m.weight for m in maps), *(m.bias for m in maps))  # type: ignore[no-untyped-call]
    return parts


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, made: tuple[Tensor, ...], *weights_and_biases: Tensor | None
    ) -> tuple[Tensor, ...]:
        half = len(weights_and_biases) // 2
        weights, biases = weights_and_biases[:half], weights_and_biases[half:]
        x_MK = x.reshape(-1, x.shape[-1])
        ctx.save_for_backward(*(made or (x_MK,)), *weights)
        ctx.num_made = len(made)
        parts = [product(x_MK, weight) for weight in weights if weight is not None]
        for y_MN, bias in zip(parts, biases, strict=True):
            if bias is not None:
                y_MN += bias
        return tuple(y_MN.view(*x.shape[:-1], -1) for y_MN in parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_MK, weights = take_input(ctx)
        needs_x, _, *needed = ctx.needs_input_grad
        needs_weight, needs_bias = needed[: len(weights)], needed[len(weights) :]
        rows = [grad.reshape(len(x_MK), -1) for grad in grads]
        grad_x = None
        if needs_x:
            grad_x = product(rows[0], weights[0].T)
            for grad_MN, weight in zip(rows[1:], weights[1:], strict=True):
                add_product(grad_x, grad_MN, weight.T)
            grad_x = grad_x.view(*grads[0].shape[:-1], -1)
        of_weights = zip(rows, needs_weight, strict=True)
        return (
            grad_x,
            None,
            *(weight_gradient(grad_MN, x_MK) if needs else None for grad_MN, needs in of_weights),
            *(grad_MN.sum(0) if needs else None for grad_MN, needs in zip(rows, needs_bias, strict=True)),
        )


def made_of(x: Tensor) -> tuple[Tensor, ...]:
    """What to keep in the place of ``x``: what a norm was made of; nothing for another tensor."""
    return getattr(x, "made", ())


def take_input(ctx: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The rows ``[M, K]`` that a function read, and the other tensors that it saved, behind them."""
    num_made, saved = ctx.num_made, ctx.saved_tensors
    if not num_made:
        return saved[0], saved[1:]
    x = Made(*saved[:num_made]).again()
    return x.view(-1, x.shape[-1]), saved[num_made:]


def _onednn(x_MK: Tensor, weight_NK: Tensor) -> Tensor:
    y_MN: Tensor = torch.ops.mkldnn._linear_pointwise(x_MK, weight_NK, None, "none", [], "")
    return y_MN


@functools.cache
def _multiplies_bf16() -> bool:
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except AttributeError:  # private to PyTorch
        return True


@functools.cache
def _onednn_pays() -> bool:
    """Whether it is the faster one here, and a trial of both layouts of a weight."""
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        return False
    x, weight = torch.arange(20.0 * 3).view(20, 3).cos(), torch.arange(5.0 * 3).view(5, 3).sin()
    try:
        return all(
            torch.allclose(_onednn(x, w), x @ weight.T, atol=1e-5) for w in (weight, weight.T.contiguous().T)
        )
    except (AttributeError, RuntimeError):
        return False
