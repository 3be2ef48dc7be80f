from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aha.errors import CheckpointError
from aha.model.decoder import Decoder
from aha.model.heads import HEAD_FILE, RewardModel, load_reward_model, save_reward_model


@pytest.fixture
def model(tiny_decoder: Decoder) -> RewardModel:
    model = RewardModel(tiny_decoder)
    with torch.no_grad():
        model.score.copy_(torch.linspace(-1, 1, 32)[None])
    return model


IDS = torch.tensor([[5, 6, 7, 0, 0], [9, 8, 7, 6, 5]])
LAST = torch.tensor([2, 4])


def test_score_is_the_head_times_the_last_hidden_state(model: RewardModel) -> None:
    hidden = model.decoder(IDS)
    expected = torch.stack((hidden[0, 2] @ model.score[0], hidden[1, 4] @ model.score[0]))
    assert torch.allclose(model(IDS, LAST), expected, atol=1e-6)


def test_padding_has_no_effect(model: RewardModel) -> None:
    other = IDS.clone()
    other[0, 3:] = 33
    with torch.no_grad():
        assert torch.equal(model(other, LAST), model(IDS, LAST))
        assert torch.allclose(model(IDS[:1, :3], LAST[:1]), model(IDS, LAST)[:1], atol=1e-5)


def test_starts_at_zero_and_learns(tiny_decoder: Decoder) -> None:
    model = RewardModel(tiny_decoder)
    scores = model(IDS, LAST)
    assert scores.tolist() == [0.0, 0.0]
    scores[0].backward()
    assert model.score.grad is not None and model.score.grad.abs().sum() > 0


def test_round_trip(model: RewardModel, tmp_path: Path) -> None:
    save_reward_model(model, model.decoder.config, tmp_path)
    loaded, config = load_reward_model(tmp_path)
    assert config == model.decoder.config
    assert torch.equal(loaded(IDS, LAST), model(IDS, LAST))


def test_bad_head_is_named(model: RewardModel, tmp_path: Path) -> None:
    save_reward_model(model, model.decoder.config, tmp_path)
    (tmp_path / HEAD_FILE).unlink()
    with pytest.raises(CheckpointError, match=f"{HEAD_FILE}: no such file"):
        load_reward_model(tmp_path)
    (tmp_path / HEAD_FILE).write_bytes((tmp_path / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"'score': \(1, 32\)"):
        load_reward_model(tmp_path)
