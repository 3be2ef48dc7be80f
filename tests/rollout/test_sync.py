"""The check after a sync finds a weight that differs and a sampler that computes something else."""

from __future__ import annotations

import pytest
import torch

from aha.errors import InvariantError
from aha.rollout.native.engine import NativeEngine
from aha.rollout.sync import check_agreement, sync_weights
from aha.testing import tiny_policy


def test_a_sync_says_how_close_the_two_are_and_sets_the_version() -> None:
    policy = tiny_policy()
    engine = NativeEngine(policy.config)
    assert sync_weights(engine, policy.decoder, version=3) < 1e-4
    assert engine.policy_version == 3


def test_a_sampler_that_keeps_old_weights_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    engine = NativeEngine(policy.config)
    sync_weights(engine, policy.decoder, version=0)
    monkeypatch.setattr(engine, "load_weights", lambda decoder, version: None)
    sync_weights(engine, policy.decoder, version=1)  # nothing has changed yet
    for parameter in policy.decoder.parameters():
        with torch.no_grad():
            before = parameter.view(-1)[0].item()
            parameter.view(-1)[0] += 1e-3
            with pytest.raises(InvariantError, match="version 2"):
                sync_weights(engine, policy.decoder, version=2)
            parameter.view(-1)[0] = before


def test_weights_that_are_no_numbers_are_named() -> None:
    policy = tiny_policy()
    policy.decoder.get_parameter("model.layers.1.mlp.up_proj.weight").data[2, 3] = torch.nan
    with pytest.raises(InvariantError, match=r"1 tensors of version 7 .*layers\.1\.mlp\.up_proj\.weight for one"):
        sync_weights(NativeEngine(policy.config), policy.decoder, version=7)


def test_a_sampler_that_computes_another_model_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    engine = NativeEngine(policy.config)
    monkeypatch.setattr(engine, "score", lambda sequences: [(-9.0,) * 15])
    with pytest.raises(InvariantError, match="different models"):
        sync_weights(engine, policy.decoder, version=0)
    monkeypatch.setattr(engine, "score", lambda sequences: [(float("nan"),) * 15])
    with pytest.raises(InvariantError, match="nan"):
        sync_weights(engine, policy.decoder, version=0)


@pytest.mark.parametrize("dtype,sound,mad", [(torch.float32, 2e-7, 1e-3), (torch.int8, 0.1, 0.4)])
def test_a_step_whose_tokens_disagree_is_stopped(dtype: torch.dtype, sound: float, mad: float) -> None:
    check_agreement(sound, dtype=dtype, step=4)
    for gap in (mad, float("nan")):
        with pytest.raises(InvariantError, match="step 4: sampler and trainer differ"):
            check_agreement(gap, dtype=dtype, step=4)
