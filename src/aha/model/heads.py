"""A scalar head on a decoder: one score for a whole sequence (a reward model), for each step (a process reward model),
or for each place (a critic).

Axes: ``B`` sequences, ``T`` tokens, ``N`` places that are asked for, ``D`` width.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from aha.model.attention.plan import Branches
from aha.model.config import ModelConfig
from aha.model.decoder import Decoder
from aha.model.folder import load_model, save_model
from aha.model.tensor_file import load_tensors, save_tensors_atomic

HEAD_FILE = "reward_head.safetensors"
STEP_HEAD_FILE = "step_head.safetensors"

_STEP_HEAD = ("score", "doubt", "bias")
_CHUNK_NUMBERS = 2**23  # logits held at a time
_LEAST = 1e-4  # surprise under which it makes no difference
_FASTER = 10.0  # times as fast as the decoder, a head of zeros learns


def _without_logits(decoder: Decoder) -> Decoder:
    """A head that is not the embedding is not trained, or an optimiser would keep moments for it."""
    if not decoder.config.tie_word_embeddings:
        decoder.lm_head.requires_grad_(False)
    return decoder


class RewardModel(nn.Module):
    """A decoder read at the last token of each sequence by a linear map to one number (Ouyang et al. 2022).

    The map starts at zero, so that every score is 0 and a preference loss starts at exactly log 2. It has no bias: a
    preference depends on differences of scores alone.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = _without_logits(decoder)
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

    Beside the hidden state the map reads how sure the decoder itself was of what was said so far: the surprise
    ``-log p`` of the completion's least likely token, its logarithm, and the sum of all. A slip is a token that the
    decoder would not have said; to find one without its probabilities, a decoder would have to work a result out and
    compare it with what was said in the layers in which it can only work it out.

    The map starts at zero, so that every chance is one half and its loss starts at log 2 (Lightman et al. 2305.20050).
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder
        like = decoder.head_weight
        self.score = nn.Parameter(torch.zeros(1, like.shape[1], dtype=like.dtype, device=like.device))
        self.doubt = nn.Parameter(torch.zeros(1, 3, dtype=like.dtype, device=like.device))
        self.bias = nn.Parameter(torch.zeros(1, dtype=like.dtype, device=like.device))

    def forward(self, ids_BT: Tensor, starts_B: Tensor, rows_N: Tensor, places_N: Tensor) -> Tensor:
        """Logits ``[N]`` at ``places_N`` of ``rows_N``; what stands after a place has no effect on it. ``starts_B`` is
        the index of each row's first token after its prompt."""
        device = self.score.device
        ids_BT, starts_B = ids_BT.to(device), starts_B.to(device)
        rows_N, places_N = rows_N.to(device), places_N.to(device)
        hidden_BTD = self.decoder(ids_BT)
        last_B = torch.zeros_like(starts_B).scatter_reduce(0, rows_N, places_N, "amax")
        at_T = torch.arange(ids_BT.shape[1], device=device)
        said_BT = (at_T >= starts_B[:, None]) & (at_T <= last_B[:, None])
        row, place = said_BT.nonzero(as_tuple=True)
        surprise = self.surprise(hidden_BTD[row, place - 1], ids_BT[row, place])
        surprise_BT = surprise.new_zeros(ids_BT.shape).index_put((row, place), surprise)
        worst_BT, total_BT = surprise_BT.cummax(1).values, surprise_BT.cumsum(1)
        return self.judge(hidden_BTD[rows_N, places_N], worst_BT[rows_N, places_N], total_BT[rows_N, places_N])

    def surprise(self, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
        """``-log p`` ``[N]`` of each target by the decoder, whose state before it is ``hidden_ND``."""
        step = max(1, _CHUNK_NUMBERS // len(self.decoder.head_weight))
        parts = zip(torch.split(hidden_ND, step), torch.split(targets_N, step), strict=True)
        return torch.cat([checkpoint(self._surprise, *part, use_reentrant=False) for part in parts])

    def judge(self, hidden_ND: Tensor, worst_N: Tensor, total_N: Tensor) -> Tensor:
        """Logits ``[N]`` of texts that end in ``hidden_ND``; ``worst_N`` is the largest surprise up to there."""
        doubts_NK = torch.stack((worst_N, (worst_N + _LEAST).log(), total_N), 1).to(hidden_ND.dtype)
        return _FASTER * (hidden_ND @ self.score.T + doubts_NK @ self.doubt.T + self.bias).squeeze(-1)

    def _surprise(self, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
        logits_NV = self.decoder.logits(hidden_ND)
        logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
        return logits_NV.logsumexp(-1) - logits_NV.gather(1, targets_N[:, None]).squeeze(1)


class ValueModel(nn.Module):
    """A decoder read at many places by a linear map to one number: what the rest of a completion is expected to earn.

    The map starts at zero, so that the first advantages are those without a critic.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = _without_logits(decoder)
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
    tensors = {name: getattr(model, name).detach() for name in _STEP_HEAD}
    save_tensors_atomic(Path(path) / STEP_HEAD_FILE, tensors)


def load_process_reward_model(
    path: str | Path, *, dtype: torch.dtype = torch.float32
) -> tuple[ProcessRewardModel, ModelConfig]:
    """Reads what ``save_process_reward_model`` wrote; ``CheckpointError`` when a file is missing or does not fit."""
    decoder, config = load_model(path, dtype=dtype)
    model = ProcessRewardModel(decoder)
    shapes = {name: tuple(getattr(model, name).shape) for name in _STEP_HEAD}
    for name, tensor in load_tensors(Path(path) / STEP_HEAD_FILE, shapes).items():
        getattr(model, name).data.copy_(tensor)
    return model, config
