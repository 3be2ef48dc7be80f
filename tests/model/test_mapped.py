"""A decoder whose weights lie in a file computes the same bits, and can be given others."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from aha.errors import DataError
from aha.model.config import ModelConfig
from aha.model.decoder import build_decoder
from aha.model.mapped import MappedDecoder, _reserve

CONFIG = ModelConfig(
    vocab_size=30,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
IDS = torch.arange(10)[None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_the_same_bits_and_new_weights_stay(tmp_path: Path, tied: bool, dtype: torch.dtype) -> None:
    config = CONFIG.model_copy(update={"tie_word_embeddings": tied})
    source, other = (build_decoder(config, seed=seed, dtype=dtype) for seed in (0, 1))
    mapped = MappedDecoder(source, tmp_path)
    assert not list(tmp_path.iterdir())  # the file has no name
    assert (mapped.decoder.head_weight is mapped.decoder.model.embed_tokens.weight) == tied
    assert torch.equal(mapped.decoder(IDS), source(IDS))
    mapped.decoder.load_state_dict(other.state_dict())
    mapped.release()
    assert torch.equal(mapped.decoder.logits(mapped.decoder(IDS)), other.logits(other(IDS)))
    assert not any(parameter.requires_grad for parameter in mapped.decoder.parameters())


def test_a_disk_without_room_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"no room for the 0 MiB of a reference \(No space .* set beta to 0"):
        MappedDecoder(build_decoder(CONFIG, seed=0), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_file_has_no_holes_that_a_full_disk_could_not_fill(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        _reserve(file.fileno(), 2**20, tmp_path)
        assert os.fstat(file.fileno()).st_blocks * 512 >= 2**20
