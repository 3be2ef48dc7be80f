"""A scalar head on a decoder: one score for a whole sequence (a reward model), for each step (a process reward model),
or for each place (a critic).

Axes: ``B`` sequences, ``T`` tokens, ``N`` places that are asked for, ``D`` width.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from aha.model.attention.plan import Branches
from aha.model.config import ModelConfig
from aha.model.decoder import Decoder
from aha.model.folder import load_model, save_model
from aha.model.tensor_file import load_tensors, save_tensors_atomic

HEAD_FILE = "reward_head.safetensors"
STEP_HEAD_FILE = "step_head.safetensors"


class RewardModel(nn.Module):
    """A decoder read at the last token of each sequence by a linear map to one number (Ouyang et al. 2022).

    The map starts at zero, so that every score is 0 and a preference loss starts at exactly log 2. It has no bias: a
    preference depends on differences of scores alone.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder
        like = decoder.head_weight
        self.score = nn.Parameter(torch.zeros(1, like.shape[1], dtype=like.dtype, device=like.device))

    def forward(self, ids_BT: Tensor, last_B: Tensor) -> Tensor:
        """Scores ``[B]``; ``last_B`` is the index of each row's last real token, what stands after it has no effect."""
        device = self.score.device
        ids_BT, last_B = ids_BT.to(device), last_B.to(device)
        hidden_BTD = self.decoder(ids_BT)
        rows = torch.arange(ids_BT.shape[0], device=device)
        return cast(Tensor, (hidden_BTD[rows, last_B] @ self.score.T).squeeze(-1))


class ProcessRewardModel(nn.Module):
    """A decoder read at the last token of each step by a linear map to one logit: is this on the way to a right answer?

    The map starts at zero, so that every chance is one half and its loss starts at log 2 (Lightman et al. 2305.20050).
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder
        like = decoder.head_weight
        self.score = nn.Parameter(torch.zeros(1, like.shape[1], dtype=like.dtype, device=like.device))
        self.bias = nn.Parameter(torch.zeros(1, dtype=like.dtype, device=like.device))

    def forward(self, ids_BT: Tensor, rows_N: Tensor, places_N: Tensor) -> Tensor:
        """Logits ``[N]`` at ``places_N`` of ``rows_N``; what stands after a place has no effect on it."""
        device = self.score.device
        hidden_BTD = self.decoder(ids_BT.to(device))
        hidden_ND = hidden_BTD[rows_N.to(device), places_N.to(device)]
        return cast(Tensor, (hidden_ND @ self.score.T + self.bias).squeeze(-1))


class ValueModel(nn.Module):
    """A decoder read at many places by a linear map to one number: what the rest of a completion is expected to earn.

    The map starts at zero, so that the first advantages are those without a critic.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder
        like = decoder.head_weight
        self.value = nn.Parameter(torch.zeros(1, like.shape[1], dtype=like.dtype, device=like.device))

    def forward(self, ids_1T: Tensor, branches: Branches, places_N: Tensor) -> Tensor:
        """Values ``[N]``, of the states after the tokens at ``places_N``."""
        hidden_TD = self.decoder(ids_1T, branches=branches)[0]
        return cast(Tensor, (hidden_TD.index_select(0, places_N) @ self.value.T).squeeze(-1))


def save_reward_model(model: RewardModel, config: ModelConfig, path: str | Path) -> None:
    """Writes the decoder's folder and, beside its weights, the head as ``reward_head.safetensors``."""
    save_model(model.decoder, config, path)
    save_tensors_atomic(Path(path) / HEAD_FILE, {"score": model.score.detach()})


def load_reward_model(path: str | Path, *, dtype: torch.dtype = torch.float32) -> tuple[RewardModel, ModelConfig]:
    """Reads what ``save_reward_model`` wrote; ``CheckpointError`` when a file is missing or does not fit."""
    decoder, config = load_model(path, dtype=dtype)
    model = RewardModel(decoder)
    tensors = load_tensors(Path(path) / HEAD_FILE, {"score": (1, config.hidden_size)})
    with torch.no_grad():
        model.score.copy_(tensors["score"])
    return model, config


def save_process_reward_model(model: ProcessRewardModel, config: ModelConfig, path: str | Path) -> None:
    """Writes the decoder's folder and, beside its weights, the head as ``step_head.safetensors``."""
    save_model(model.decoder, config, path)
    tensors = {"score": model.score.detach(), "bias": model.bias.detach()}
    save_tensors_atomic(Path(path) / STEP_HEAD_FILE, tensors)


def load_process_reward_model(
    path: str | Path, *, dtype: torch.dtype = torch.float32
) -> tuple[ProcessRewardModel, ModelConfig]:
    """Reads what ``save_process_reward_model`` wrote; ``CheckpointError`` when a file is missing or does not fit."""
    decoder, config = load_model(path, dtype=dtype)
    model = ProcessRewardModel(decoder)
    tensors = load_tensors(Path(path) / STEP_HEAD_FILE, {"score": (1, config.hidden_size), "bias": (1,)})
    with torch.no_grad():
        model.score.copy_(tensors["score"])
        model.bias.copy_(tensors["bias"])
    return model, config
