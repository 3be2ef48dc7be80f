from __future__ import annotations

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from aha.model.norm import RMSNorm


def test_by_hand() -> None:
    norm = RMSNorm(2, eps=0.0).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 10.0]))
    # mean square of (3, 4) is 12.5
    expected = torch.tensor([3 / 12.5**0.5, 40 / 12.5**0.5], dtype=torch.float64)
    assert torch.allclose(norm(torch.tensor([3.0, 4.0], dtype=torch.float64)), expected)


def test_gradient_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    norm = RMSNorm(5, eps=1e-3).double()
    x = torch.randn(2, 3, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(5, dtype=torch.float64, generator=generator, requires_grad=True)

    def run(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(norm, {"weight": weight}, (x,))  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(run, (x, weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_numbers_as_transformers(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = RMSNorm(64, eps=1e-5).to(dtype), LlamaRMSNorm(64, eps=1e-5).to(dtype)
    with torch.no_grad():
        ours.weight.copy_(torch.randn(64, generator=generator))
        theirs.weight.copy_(ours.weight)
    x = torch.randn(4, 7, 64, generator=generator).to(dtype)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    outputs = [norm(row) for norm, row in zip((ours, theirs), inputs, strict=True)]
    pull = torch.randn(outputs[0].shape, generator=generator).to(dtype)
    for output in outputs:
        output.backward(pull)
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
    assert torch.allclose(outputs[0], outputs[1], **tolerance)
    assert torch.allclose(inputs[0].grad, inputs[1].grad, **tolerance)
    wide = {"rtol": 5e-2, "atol": 1e-1} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    assert torch.allclose(ours.weight.grad, theirs.weight.grad, **wide)
