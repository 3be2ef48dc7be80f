from __future__ import annotations

from typing import Any

import pytest

from aha.config import override
from aha.errors import SettingError
from aha.model.config import ModelConfig


def test_head_dim_is_derived_and_derived_again_in_a_changed_copy(tiny_config: ModelConfig) -> None:
    assert tiny_config.head_dim == 32 // 4
    assert override(tiny_config, "hidden_size", "64").head_dim == 64 // 4
    assert ModelConfig(**{**tiny_config.model_dump(), "head_dim": None}) == tiny_config


@pytest.mark.parametrize(("changes", "said"), [
    ({"num_attention_heads": 3, "num_key_value_heads": 3}, "32 is not a multiple of num_attention_heads 3"),
    ({"num_key_value_heads": 3}, "4 is not a multiple of num_key_value_heads 3"),
    ({"head_dim": 5}, "head_dim 5"),
    ({"vocab_size": 0}, "vocab_size"),
    ({"eos_token_id": [2, 61]}, "eos_token_id 61 is outside the vocabulary of 61"),
    ({"bos_token_id": -1}, "bos_token_id -1"),
    ({"model_type": "qwen2", "attention_bias": True}, "attention_bias"),
    ({"model_type": "gpt2"}, "model_type"),
    ({"hiden_size": 3}, "hidden_size"),
])
def test_impossible_shapes_are_refused(tiny_config: ModelConfig, changes: dict[str, Any], said: str) -> None:
    values = {name: getattr(tiny_config, name) for name in tiny_config.model_fields_set}
    with pytest.raises(SettingError, match=said):
        ModelConfig(**{**values, **changes})


def test_what_follows_from_the_model_type(config: ModelConfig) -> None:
    assert config.qkv_bias == (config.model_type == "qwen2" or config.attention_bias)
    assert config.o_bias == config.attention_bias
    assert config.qk_norm == (config.model_type == "qwen3")


def test_end_token_ids(tiny_config: ModelConfig) -> None:
    assert tiny_config.end_token_ids == ()
    assert override(tiny_config, "eos_token_id", "7").end_token_ids == (7,)
    assert override(tiny_config, "eos_token_id", "[7, 8]").end_token_ids == (7, 8)
