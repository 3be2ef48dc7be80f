from __future__ import annotations

import torch

from aha.train.rng import torch_rng


def test_streams_repeat_differ_and_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    draws = [torch.rand(4, generator=torch_rng(*key)) for key in [(0, "a", 1), (0, "a", 1), (0, "a", 2), (1, "a", 1)]]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2]) and not torch.equal(draws[0], draws[3])
    assert torch.equal(torch.get_rng_state(), state)
