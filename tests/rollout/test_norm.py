"""The sampler's norm against its equation in double precision."""

from __future__ import annotations

import pytest
import torch

from aha.rollout.native.norm import Norm


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-6), (torch.bfloat16, 2.0**-8)])
def test_a_norm_is_its_equation_also_where_eps_counts_and_of_nothing(dtype: torch.dtype, off: float) -> None:
    generator = torch.Generator().manual_seed(1)
    norm = Norm(48, 1e-3, lambda *shape: torch.empty(shape, dtype=dtype))
    with norm.rewrite() as weight_D:
        weight_D.copy_(1 + 0.3 * torch.randn(48, generator=generator))
    sizes = torch.tensor([0.0, 1e-3, 0.03, 1.0, 1e4])
    x_BD = (sizes[:, None] * torch.randn(5, 48, generator=generator)).to(dtype)
    x = x_BD.double()
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight_D.double()
    got = norm.of(x_BD)
    assert got.dtype == dtype and torch.allclose(got.double(), expected, rtol=off, atol=1e-30)
    assert got[0].tolist() == [0.0] * 48
