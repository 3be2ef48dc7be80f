from __future__ import annotations

import pytest
import torch

from aha.model.attention.fp8_cache import entry_bytes, pack_entries, unpack_entries


def test_deepseek_v3_takes_656_bytes() -> None:
    assert entry_bytes(512, 64) == 656
    assert pack_entries(torch.randn(2, 3, 576), latent=512).shape == (2, 3, 656)


@pytest.mark.parametrize("latent", [512, 128, 130, 7])
def test_round_trip_is_as_close_as_the_type_allows(latent: int) -> None:
    entries = torch.randn(20, latent + 6, generator=torch.Generator().manual_seed(latent)) * 3
    entries[:, 0] *= 1000  # an outlier coarsens its own tile alone
    entries[3] = 0.0
    back = unpack_entries(pack_entries(entries, latent=latent), latent=latent, dtype=torch.float32)
    assert back.isfinite().all() and back[3].eq(0).all()
    assert torch.equal(back[:, latent:], entries[:, latent:].bfloat16().float())
    for start in range(0, latent, 128):
        exact, found = entries[:, start : min(start + 128, latent)], back[:, start : min(start + 128, latent)]
        largest = exact.abs().amax(-1, keepdim=True)
        # half a step of a 3-bit fraction, or of the smallest subnormal under this tile's scale
        assert ((found - exact).abs() <= (exact.abs() / 16 + largest / 448 * 2**-10) * 1.001).all()


def test_values_that_fit_are_exact() -> None:
    entries = torch.tensor([[448.0, -3.5, 0.25, 2**-9, 1.0, -1.0]])
    assert torch.equal(unpack_entries(pack_entries(entries, latent=4), latent=4, dtype=torch.float32), entries)
