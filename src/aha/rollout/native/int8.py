"""Weights in int8 for sampling: a matrix has whole numbers of -127 to 127 and a step for each output, a row of
activations gets the same when it meets one, and their product is summed exactly.

Symmetric, by the largest, to the nearest, a step a row and an output, few outliers of a row apart: LLM.int8() (Dettmers
et al. 2022, arXiv 2208.07339), sections 2.1 and 3, but that outliers are whole numbers, too, of two digits. All
matrices are in int8, embedding and head, too; norms, biases, attention and the cache are in bfloat16. B and R rows, I
inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from aha.errors import SettingError
from aha.model.config import ModelConfig

REST = torch.bfloat16  # what is not in int8
OUTLIERS = 8  # of a row, as in kernels.c
_NUMBERS = 1 << 20  # quantised at once
STEP = ".step"  # behind a matrix's name, that of its steps


def rest_of(dtype: torch.dtype) -> torch.dtype:
    """The number type of what a sampler of ``dtype`` has beside matrices."""
    return REST if dtype == torch.int8 else dtype


def check_int8(config: ModelConfig, device: torch.device) -> None:
    """``SettingError`` where weights cannot be sampled with in int8."""
    if config.latent_attention or config.n_routed_experts:
        what = "latent attention" if config.latent_attention else "experts"
        raise SettingError(f"int8 is for grouped-query attention and dense layers, the model has {what}: take bfloat16")
    if device.type != "cpu":
        raise SettingError(f"int8 is computed on a CPU alone, not on {device}: take bfloat16")


def quantise(x_RI: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's numbers in int8, and its step, float32 ``[R]``: ``x = numbers * step`` to half a step. The step of a
    row with a number that is not finite is NaN."""
    numbers_RI = torch.empty(x_RI.shape, dtype=torch.int8)
    step_R = torch.empty(len(x_RI))
    some = max(1, _NUMBERS // x_RI.shape[1])
    for start in range(0, len(x_RI), some):  # so that what is held for a moment is little
        part = slice(start, start + some)
        x = x_RI[part].float()
        largest = x.abs().amax(-1)
        scale = torch.where(largest > 1e-30, 127 / largest, 0)
        numbers_RI[part] = (x * scale[:, None]).nan_to_num_(0, 0, 0).round_()
        step_R[part] = largest / 127 + (x - x).sum(-1)
    return numbers_RI, step_R


def quantise_rows(x_BI: Tensor) -> tuple[Tensor, Tensor]:
    """As ``quantise``, in int16, for rows of activations: up to 8 outliers of a row reach up to 127 * 128, so that they
    do not make the step of all others coarse. The step halves as long as no more numbers go beyond 127."""
    x_BI = x_BI.float()
    size_BI = x_BI.abs()
    near_B = largest_B = size_BI.amax(-1)
    for _ in range(7):
        num_B = (size_BI > near_B[:, None] / 2).sum(-1)
        near_B = torch.where(num_B <= OUTLIERS, near_B / 2, near_B)
    scale_B = torch.where(near_B > 1e-30, 127 / near_B, 0)
    finite_BI = torch.where(largest_B.isfinite()[:, None], x_BI * scale_B[:, None], 0)
    return finite_BI.round().to(torch.int16), near_B / 127 + (x_BI - x_BI).sum(-1)


def multiply(x_BI: Tensor, numbers_OI: Tensor, step_O: Tensor) -> Tensor:
    """Float32 ``[B, O]``: rows, made whole numbers, by an int8 matrix; summed exactly."""
    rows_BI, step_B = quantise_rows(x_BI)
    far_BI = torch.where(rows_BI.abs() > 127, rows_BI + 64 >> 7, 0)
    near_BI = rows_BI - 128 * far_BI
    near_BO, far_BO = (torch._int_mm(part.to(torch.int8), numbers_OI.t()) for part in (near_BI, far_BI))
    return near_BO.add_(far_BO, alpha=128).float().mul_(step_B[:, None] * step_O)


def is_int8(name: str) -> bool:
    """Whether an int8 sampler has the tensor of this published name in int8."""
    of_layers = (".self_attn." in name or ".mlp." in name) and name.endswith("_proj.weight")
    return of_layers or name in ("model.embed_tokens.weight", "lm_head.weight")


def as_int8(named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """A decoder's weights as an int8 sampler has them: numbers and steps, each by name."""
    for name, tensor in named:
        if is_int8(name):
            numbers, steps = quantise(tensor.detach())
            yield name, numbers
            yield name + STEP, steps
        else:
            yield name, tensor
