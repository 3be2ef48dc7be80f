"""FP8 weights as DeepSeek publishes them: ``X.weight`` in E4M3 beside ``X.weight_scale_inv``, a scale for each block.

Pure functions over streams of (name, tensor), so that a model larger than memory can pass through them. In spite of its
name the scale is multiplied with (DeepSeek-V3's ``fp8_cast_bf16.py``). The folder's ``config.json`` says so under
``quantization_config`` (``config_file.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from aha.errors import CheckpointError
from aha.model.fp8 import E4M3, TILE, Tiles, dequantize, quantize
from aha.model.precision import KEPT

_WEIGHT, _SCALE = ".weight", ".weight_scale_inv"


def is_quantized(name: str, shape: Iterable[int]) -> bool:
    """Whether the published layout has this tensor in FP8: matrices of the layers, but not what V3 keeps in BF16."""
    module = name.removesuffix(_WEIGHT).split(".")
    return (
        name.startswith("model.layers.")
        and name.endswith(_WEIGHT)
        and len(tuple(shape)) == 2
        and module[-1] not in (*KEPT, "embed_tokens", "head")  # the last two are MTP's copies of shared weights
    )


def scale_name(name: str) -> str:
    """``a.weight_scale_inv`` of ``a.weight``."""
    return name.removesuffix(_WEIGHT) + _SCALE


def scale_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """The shape of the scales of a matrix: one for each 128 x 128 block, ragged ones too."""
    rows, columns = shape
    return -(-rows // TILE), -(-columns // TILE)


def quantize_tensors(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Matrices of the layers become FP8 followed by their scales; everything else passes as it is.

    ``CheckpointError`` for a weight that is not finite.
    """
    for name, tensor in tensors:
        if not is_quantized(name, tensor.shape):
            yield name, tensor
            continue
        if not tensor.isfinite().all():
            raise CheckpointError(f"{name} has an infinity or NaN: no scale can hold it; go back to a good checkpoint")
        blocks = quantize(tensor.detach(), rows=TILE)
        yield name, blocks.values
        yield scale_name(name), blocks.scales


def dequantize_tensors(
    tensors: Iterable[tuple[str, Tensor]], *, dtype: torch.dtype = torch.float32
) -> Iterator[tuple[str, Tensor]]:
    """FP8 weights become ``dtype``, their scales are left out, everything else passes as it is.

    A weight and its scales may be far apart and in either order; what came first waits. ``CheckpointError`` for one
    without the other and for scales of a wrong shape.
    """
    waiting: dict[str, Tensor] = {}
    for name, tensor in tensors:
        if tensor.dtype != E4M3 and not name.endswith(_SCALE):
            yield name, tensor
            continue
        weight = name.removesuffix(_SCALE) + _WEIGHT if name.endswith(_SCALE) else name
        waiting[name] = tensor
        if weight in waiting and scale_name(weight) in waiting:
            yield weight, _multiply(weight, waiting.pop(weight), waiting.pop(scale_name(weight))).to(dtype)
    if waiting:
        name = min(waiting)
        other = name.removesuffix(_SCALE) + _WEIGHT if name.endswith(_SCALE) else scale_name(name)
        raise CheckpointError(f"{name} is there without {other}: an FP8 weight needs both")


def _multiply(name: str, values: Tensor, scales: Tensor) -> Tensor:
    if values.dtype != E4M3 or values.dim() != 2 or tuple(scales.shape) != scale_shape(tuple(values.shape)):
        raise CheckpointError(
            f"{name} is {values.dtype} {list(values.shape)} with scales {list(scales.shape)}: expected a matrix in "
            f"{E4M3} and one scale for each {TILE} x {TILE} block"
        )
    return dequantize(Tiles(values, scales.float(), TILE))
