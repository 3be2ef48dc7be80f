from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aha.errors import CheckpointError
from aha.model.config import ModelConfig
from aha.model.folder import load_model
from aha.model.gguf import convert_gguf, undo_rotary_permutation

IDS = torch.tensor([[5, 6, 7, 60, 0, 1]])
# A byte-level vocabulary of 61: letters, one merge, specials.
TOKENS = ["<s>", "</s>", *[chr(ord("a") + i) for i in range(26)], "Ġ", "ab", *[f"<unused{i}>" for i in range(31)]]
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}


def permute_as_llama_cpp(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """Row (head, half, i) goes to (head, i, half), so that a pair to be rotated is side by side."""
    H = rows.shape[0] // num_heads
    out = np.empty_like(rows)
    for head in range(num_heads):
        for half in range(2):
            for i in range(H // 2):
                out[head * H + 2 * i + half] = rows[head * H + half * H // 2 + i]
    return out


def write_gguf(
    path: Path, model: Any, config: ModelConfig, *, architecture: str = "llama",
    extra: dict[str, np.ndarray] | None = None, skip: str = "", quantise: bool = False,
) -> None:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * 59)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.detach().numpy()
        if ".q_proj." in name:
            values = permute_as_llama_cpp(values, config.num_attention_heads)
        if ".k_proj." in name:
            values = permute_as_llama_cpp(values, config.num_key_value_heads)
        parts = name.split(".")
        if parts[1] == "layers":
            target = f"blk.{parts[2]}.{NAMES['.'.join(parts[3:-1])]}.{parts[-1]}"
        else:
            target = {"model.embed_tokens": "token_embd", "model.norm": "output_norm",
                      "lm_head": "output"}[".".join(parts[:-1])] + ".weight"
        if target == skip:
            continue
        if quantise and values.ndim == 2 and values.shape[1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(target, gguf.quantize(np.ascontiguousarray(values), kind), raw_dtype=kind)
        else:
            writer.add_tensor(target, np.ascontiguousarray(values))
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("tied", [True, False])
def test_converted_model_and_tokenizer(
    tiny_config: ModelConfig, build_reference: Callable[[ModelConfig], Any], tmp_path: Path, tied: bool
) -> None:
    config = ModelConfig(**{**tiny_config.model_dump(), "tie_word_embeddings": tied, "num_key_value_heads": 2,
                            "rms_norm_eps": 1e-5, "bos_token_id": 0, "eos_token_id": 1})
    reference = build_reference(config)
    write_gguf(tmp_path / "model.gguf", reference, config)
    assert convert_gguf(tmp_path / "model.gguf", tmp_path / "out", dtype=torch.float32) == config
    decoder, loaded = load_model(tmp_path / "out")
    assert loaded == config
    expected = reference.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in decoder.state_dict().items())
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(IDS).logits
        assert torch.allclose(logits, reference(IDS).logits, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer("abc a", add_special_tokens=False)["input_ids"]
    assert ids == [TOKENS.index(token) for token in ("ab", "c", "Ġ", "a")]
    assert tokenizer.decode(ids) == "abc a"


def test_quantised_weights_come_back_close(
    tiny_config: ModelConfig, build_reference: Callable[[ModelConfig], Any], tmp_path: Path
) -> None:
    reference = build_reference(tiny_config)
    write_gguf(tmp_path / "model.gguf", reference, tiny_config, quantise=True)
    convert_gguf(tmp_path / "model.gguf", tmp_path / "out")
    decoder, _ = load_model(tmp_path / "out", dtype=torch.bfloat16)
    for name, expected in reference.state_dict().items():
        # Q8_0 has steps of max/127 in each block of 32; bfloat16 has 8 bits
        error = (decoder.state_dict()[name].float() - expected).abs().max()
        assert error <= expected.abs().max() * (0.5 / 127 + 2**-8), name


def test_permutation_is_undone() -> None:
    rows = np.arange(24.0).reshape(12, 2)
    assert np.array_equal(undo_rotary_permutation(permute_as_llama_cpp(rows, 3), num_heads=3), rows)
    assert np.array_equal(undo_rotary_permutation(permute_as_llama_cpp(rows[:, 0], 3), num_heads=3), rows[:, 0])


@pytest.mark.parametrize(("changes", "said"), [
    ({"architecture": "gemma"}, "architecture 'gemma' is not supported"),
    ({"extra": {"rope_freqs.weight": np.ones(4, np.float32)}}, "rotary scaling"),
    ({"extra": {"blk.0.ffn_gate_inp.weight": np.ones((4, 32), np.float32)}}, "ffn_gate_inp.weight has no place"),
    ({"extra": {"blk.7.attn_norm.weight": np.ones(32, np.float32)}}, "layers.7.input_layernorm.weight has no place"),
    ({"skip": "blk.1.ffn_up.weight"}, "layers.1.mlp.up_proj.weight is missing"),
    ({"skip": "token_embd.weight"}, "token_embd.weight is missing"),
    ({"skip": "output_norm.weight", "extra": {"output_norm.weight": np.ones(31, np.float32)}}, r"shape \[31\]"),
])
def test_files_that_do_not_fit_are_refused(
    tiny_config: ModelConfig, build_reference: Callable[[ModelConfig], Any], tmp_path: Path, changes: dict[str, Any],
    said: str,
) -> None:
    write_gguf(tmp_path / "model.gguf", build_reference(tiny_config), tiny_config, **changes)
    with pytest.raises(CheckpointError, match=said):
        convert_gguf(tmp_path / "model.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_gguf(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        convert_gguf(tmp_path / "none.gguf", tmp_path / "out")
    (tmp_path / "text.gguf").write_text("not a model at all, only some text that is long enough")
    with pytest.raises(CheckpointError, match="not a whole GGUF file"):
        convert_gguf(tmp_path / "text.gguf", tmp_path / "out")
