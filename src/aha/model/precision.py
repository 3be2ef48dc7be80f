"""Linear maps of a decoder in FP8 or BF16 with float32 master weights: which ones, and their three matrix products.

DeepSeek-V3 (arXiv 2412.19437), section 3.3.1: the forward product (Fprop), the gradient of the input (Dgrad) and of the
weight (Wgrad) of linear maps run in FP8. Embedding, output head, router, normalisation and attention itself keep the
decoder's type. Axes: ``M`` tokens, ``K`` inputs, ``N`` outputs.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from aha.model.feedforward import DenseFeedForward
from aha.model.fp8 import TILE, Tiles, dequantize, product, quantize, round_to_e5m6

Precision = Literal["float32", "bf16", "fp8"]
KEPT = ("gate", "eh_proj")
"""Linear maps of a layer that V3 keeps out of FP8, by the last part of their name: the router, and MTP's projection."""


def use_precision(decoder: nn.Module, precision: Precision) -> None:
    """Makes the linear maps of the decoder's layers compute in ``precision`` from now on.

    Parameters stay the same objects under the same names, in their own type: optimiser, states and checkpoints see no
    difference. ``float32`` leaves the decoder as it is.
    """
    if precision == "float32":
        return
    layers = decoder.get_submodule("model.layers")
    for name, module in list(layers.named_modules()):
        parent, _, last = name.rpartition(".")
        if isinstance(module, nn.Linear) and last not in KEPT:
            linear = Bf16Linear(module) if precision == "bf16" else Fp8Linear(module, after_attention=last == "o_proj")
            setattr(layers.get_submodule(parent), last, linear)
    if precision == "fp8":
        for name, module in list(layers.named_modules()):
            if isinstance(module, DenseFeedForward):
                parent, _, last = name.rpartition(".")
                setattr(layers.get_submodule(parent), last, Fp8FeedForward(module))


class Bf16Linear(nn.Module):
    """A linear map whose operands are rounded to BF16 in all three products; the weight stays as it is."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x.bfloat16(), self.weight.bfloat16()).to(x.dtype)
        return y if self.bias is None else y + self.bias


class Fp8Linear(nn.Module):
    """A linear map whose three products run in FP8; the weight stays as it is and is quantised at every use.

    ``after_attention`` keeps the input for Wgrad in E5M6 with power-of-two scales instead of E4M3.
    """

    def __init__(self, linear: nn.Linear, *, after_attention: bool = False) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.after_attention = after_attention

    def forward(self, x: Tensor) -> Tensor:
        y = fp8_linear(x, self.weight, keep_e5m6=self.after_attention)
        return y if self.bias is None else y + self.bias


class Fp8FeedForward(nn.Module):
    """SwiGLU in FP8 that keeps its two inputs in FP8 and computes its output again for the backward pass.

    DeepSeek-V3 section 3.3.3: what is kept is a quarter of the bytes for the two inputs, and nothing for the output.
    """

    def __init__(self, dense: DenseFeedForward) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = dense.gate_proj, dense.up_proj, dense.down_proj

    def forward(self, x: Tensor) -> Tensor:
        return fp8_swiglu(self.gate_proj(x), self.up_proj(x), self.down_proj.weight)


def fp8_linear(x: Tensor, weight: Tensor, *, keep_e5m6: bool = False) -> Tensor:
    """``x @ weight.T``, ``[..., K]`` and ``[N, K]`` to ``[..., N]`` in the type of ``x``, every product in FP8.

    An infinity or NaN in ``x`` or ``weight`` makes every output that shares a tile with it NaN.
    """
    y_MN: Tensor = _Fp8Linear.apply(x.flatten(0, -2), weight, keep_e5m6)  # type: ignore[no-untyped-call]
    return y_MN.view(*x.shape[:-1], weight.shape[0])


def fp8_swiglu(gate: Tensor, up: Tensor, down_weight: Tensor) -> Tensor:
    """``(silu(gate) * up) @ down_weight.T``, ``[..., F]`` and ``[D, F]`` to ``[..., D]``, the product in FP8."""
    y_MD: Tensor = _Fp8SwiGLU.apply(gate.flatten(0, -2), up.flatten(0, -2), down_weight)  # type: ignore[no-untyped-call]
    return y_MD.view(*gate.shape[:-1], down_weight.shape[0])


class _Fp8Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_MK: Tensor, weight: Tensor, keep_e5m6: bool) -> Tensor:
        x_tiles, w_blocks = quantize(x_MK, rows=1), quantize(weight, rows=TILE)
        kept = (round_to_e5m6(x_MK),) if keep_e5m6 else (x_tiles.values, x_tiles.scales)
        ctx.save_for_backward(w_blocks.values, w_blocks.scales, *kept)
        ctx.weight_dtype = weight.dtype
        return product(x_tiles, w_blocks).to(x_MK.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_MN: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        w_values, w_scales, *kept = ctx.saved_tensors
        needs_x, needs_weight, _ = ctx.needs_input_grad
        grad_x = grad_weight = None
        if needs_x:
            grad_x = _dgrad(grad_MN, Tiles(w_values, w_scales, TILE)).to(grad_MN.dtype)
        if needs_weight:
            # Tiled again along the tokens: a second rounding to E4M3, unless what was kept is the finer E5M6.
            keep_e5m6 = len(kept) == 1
            x_MK = kept[0].float() if keep_e5m6 else dequantize(Tiles(kept[0], kept[1], 1))
            grad_weight = _wgrad(grad_MN, x_MK, power_of_two=keep_e5m6).to(ctx.weight_dtype)
        return grad_x, grad_weight, None


class _Fp8SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_MF: Tensor, up_MF: Tensor, down_weight: Tensor) -> Tensor:
        gate_tiles, up_tiles = quantize(gate_MF, rows=1), quantize(up_MF, rows=1)
        w_blocks = quantize(down_weight, rows=TILE)
        ctx.save_for_backward(*w_blocks[:2], *gate_tiles[:2], *up_tiles[:2])
        ctx.weight_dtype = down_weight.dtype
        hidden_tiles = quantize(F.silu(gate_MF) * up_MF, rows=1)
        return product(hidden_tiles, w_blocks).to(gate_MF.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_MD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        w_values, w_scales, gate_values, gate_scales, up_values, up_scales = ctx.saved_tensors
        gate_MF = dequantize(Tiles(gate_values, gate_scales, 1))
        up_MF = dequantize(Tiles(up_values, up_scales, 1))
        sigmoid_MF = gate_MF.sigmoid()
        silu_MF = gate_MF * sigmoid_MF
        grad_weight = _wgrad(grad_MD, silu_MF * up_MF).to(ctx.weight_dtype)
        grad_MF = _dgrad(grad_MD, Tiles(w_values, w_scales, TILE))
        grad_up = grad_MF * silu_MF
        grad_gate = grad_MF * up_MF * (sigmoid_MF + silu_MF * (1 - sigmoid_MF))
        return grad_gate.to(grad_MD.dtype), grad_up.to(grad_MD.dtype), grad_weight


def _dgrad(grad_MN: Tensor, w_blocks: Tiles) -> Tensor:
    """``grad @ weight``: the gradient in 1 x 128 tiles along the outputs, which are summed over here."""
    return product(quantize(grad_MN, rows=1), w_blocks.transposed())


def _wgrad(grad_MN: Tensor, x_MK: Tensor, *, power_of_two: bool = False) -> Tensor:
    """``grad.T @ x``: both in 128 x 1 tiles along the tokens, which are summed over here."""
    grad_tiles = quantize(grad_MN.t().contiguous(), rows=1)
    return product(grad_tiles, quantize(x_MK.t().contiguous(), rows=1, power_of_two=power_of_two))
