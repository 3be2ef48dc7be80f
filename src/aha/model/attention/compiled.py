"""Attention by ``attention.c``: sequences of any lengths side by side, each beginning read once, nothing padded.

Takes contiguous or other tensors on the CPU, all float32 or all bfloat16; callers ask :func:`usable` first. What
``plan.py`` computes with PyTorch is the reference that the tests hold this to.

Axes: ``M`` spans of tokens, ``N`` query heads, ``K`` key/value heads, ``H`` head width, ``W`` that of values.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from aha.model import kernels
from aha.model.rope import Rotation
from aha.util.ccompile import load_library

_SOURCE = Path(__file__).with_name("attention.c")


class Spans(NamedTuple):
    """Who sees whom among the tokens of a batch, counted through its rows. A family is a sequence and those that
    continue it: a token sees what is left of it in its own span, and all of the first span of its family."""

    spans_M2: Tensor  # first token, tokens; families one after the other
    families: Tensor  # the first span of each, and M
    longest: int  # the most keys that a token sees
    everywhere: bool  # every token is in a span


def usable(like: Tensor) -> bool:
    """Whether there is such attention for queries of this type and device."""
    return kernels.usable(like) and available()


def available() -> bool:
    """Whether there is a compiler, or was one."""
    return load_library(_SOURCE) is not None


def lay_out(families: Sequence[Sequence[tuple[int, int]]], *, tokens: int) -> Spans:
    """``Spans`` of families whose spans are (first token, tokens), none of them empty."""
    spans = [span for family in families for span in family]
    firsts = torch.tensor([0, *map(len, families)]).cumsum(0)
    longest = max((f[0][1] + max((n for _, n in f[1:]), default=0) for f in families), default=0)
    return Spans(torch.tensor(spans).view(-1, 2), firsts, longest, sum(n for _, n in spans) == tokens)


def attend(q_BTNH: Tensor, k_BTKH: Tensor, v_BTKW: Tensor, rotation: Rotation | None, spans: Spans) -> Tensor:
    """What each query reads, ``[B, T, N, W]``; 0 where a token is in no span. ``rotation`` turns queries and keys."""
    cos, sin = rotation or (None, None)
    read: Tensor = _Attention.apply(q_BTNH, k_BTKH, v_BTKW, cos, sin, spans)  # type: ignore[no-untyped-call]
    return read


class _Call(ctypes.Structure):
    """``Call`` of attention.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "cos", "sin", "span", "family")),
        *((name, ctypes.c_int64) for name in "RNKHW"),
        *((name, ctypes.c_void_p) for name in ("out", "lse", "grad", "grad_q", "grad_k", "grad_v")),
    ]


def _call(name: str, spans: Spans, q: Tensor, k: Tensor, v: Tensor, **more: Tensor | None) -> None:
    (N, H), (K, W) = q.shape[-2:], v.shape[-2:]
    tensors = {"q": q, "k": k, "v": v, "span": spans.spans_M2, "family": spans.families, **more}
    cos = more["cos"]
    call = _Call(
        R=1 if cos is None else cos.numel() // H, N=N, K=K, H=H, W=W,
        **{name: None if x is None else x.data_ptr() for name, x in tensors.items()},
    )  # fmt: skip
    library = load_library(_SOURCE)
    assert library is not None
    function: Any = getattr(library, name)
    if function.argtypes is None:
        function.argtypes, function.restype = [ctypes.c_void_p, *[ctypes.c_int64] * 4], None
    half, threads = q.dtype == torch.bfloat16, torch.get_num_threads()
    function(ctypes.addressof(call), len(spans.families) - 1, spans.longest, half, threads)


class _Attention(torch.autograd.Function):
    """Keeps queries, keys and values as they came, what was read, and a number a row."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, cos: Tensor | None, sin: Tensor | None, spans: Spans
    ) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        make = torch.empty if spans.everywhere else torch.zeros
        out = make(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
        lse = torch.empty(q.shape[:-1], dtype=torch.float32)
        cos, sin = (None if x is None else x.contiguous() for x in (cos, sin))
        _call("attend_forward", spans, q, k, v, cos=cos, sin=sin, out=out, lse=lse)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.cos, ctx.sin, ctx.spans = cos, sin, spans
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        make = torch.empty_like if ctx.spans.everywhere else torch.zeros_like
        grad_q, grad_k, grad_v = make(q), make(k), make(v)
        _call(
            "attend_backward", ctx.spans, q, k, v, cos=ctx.cos, sin=ctx.sin, out=out, lse=lse,
            grad=grad.contiguous(), grad_q=grad_q, grad_k=grad_k, grad_v=grad_v,
        )  # fmt: skip
        return grad_q, grad_k, grad_v, None, None, None
