"""GGUF files of llama models into Hugging Face folders: weights dequantised, rotation order undone, tokenizer included.

GGUF is llama.cpp's format: quantised tensors under names of its own, with config and tokenizer as metadata. Its rotary
kernel pairs neighbouring dimensions where Hugging Face pairs halves: its llama files hold query and key rows permuted.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoTokenizer

from aha.errors import CheckpointError, SettingError
from aha.model.config import ModelConfig
from aha.model.config_file import CONFIG_FILE, to_hugging_face
from aha.model.decoder import build_empty_decoder
from aha.model.folder import INDEX_FILE, WEIGHTS_FILE
from aha.model.tensor_file import save_tensors_atomic
from aha.util.files import write_json_atomic

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_REQUIRED = object()


def convert_gguf(src: str | Path, dst: str | Path, *, dtype: torch.dtype = torch.bfloat16) -> ModelConfig:
    """Writes the model and tokenizer of the GGUF file ``src`` into the folder ``dst``, weights as ``dtype``.

    Returns the config. ``CheckpointError`` names what cannot be read: another architecture, rotary scaling, experts, a
    tensor without a place or of a wrong shape.
    """
    src, dst = Path(src), Path(dst)
    reader = _open(src)
    config = _read_config(src, reader)
    expected = {
        name: tuple(tensor.shape) for name, tensor in build_empty_decoder(config, device="meta").state_dict().items()
    }
    if config.tie_word_embeddings:
        del expected["lm_head.weight"]
    sources = {_hugging_face_name(src, tensor.name): tensor for tensor in reader.tensors}
    _check_shapes(src, {name: _shape(tensor) for name, tensor in sources.items()}, expected)

    weights = {name: _read_tensor(tensor, name, config).to(dtype) for name, tensor in sources.items()}
    dst.mkdir(parents=True, exist_ok=True)
    AutoTokenizer.from_pretrained(str(src.parent), gguf_file=src.name).save_pretrained(str(dst))
    (dst / INDEX_FILE).unlink(missing_ok=True)
    save_tensors_atomic(dst / WEIGHTS_FILE, weights)
    write_json_atomic(dst / CONFIG_FILE, to_hugging_face(config, dtype=dtype))
    return config


def undo_rotary_permutation(rows: NDArray[Any], *, num_heads: int) -> NDArray[Any]:
    """Query or key rows ``[num_heads * H, ...]`` from GGUF's order (pairs side by side) to halves in a row."""
    half = rows.shape[0] // num_heads // 2
    return rows.reshape(num_heads, half, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _open(src: Path) -> gguf.GGUFReader:
    if not src.is_file():
        raise CheckpointError(f"{src}: no such file")
    try:
        return gguf.GGUFReader(src)
    except (ValueError, IndexError, KeyError) as error:
        raise CheckpointError(f"{src}: not a whole GGUF file ({error})") from None


def _read_config(src: Path, reader: gguf.GGUFReader) -> ModelConfig:
    def field(name: str, default: Any = _REQUIRED) -> Any:
        entry = reader.get_field(name)
        if entry is not None:
            return entry.contents()
        if default is _REQUIRED:
            raise CheckpointError(f"{src}: the field {name} is missing")
        return default

    architecture = field("general.architecture")
    if architecture != "llama":
        raise CheckpointError(f"{src}: architecture {architecture!r} is not supported; known: llama")
    scaling = field("llama.rope.scaling.type", "none")
    names = {tensor.name for tensor in reader.tensors}
    if scaling != "none" or "rope_freqs.weight" in names:
        raise CheckpointError(f"{src}: rotary scaling ({scaling}, rope_freqs) is not supported; known: none")
    if field("llama.expert_count", 0):
        raise CheckpointError(f"{src}: a mixture of experts is not supported")
    heads, width = field("llama.attention.head_count"), field("llama.embedding_length")
    head_dim = field("llama.attention.key_length", width // heads)
    rotated = field("llama.rope.dimension_count", head_dim)
    if rotated != head_dim:
        raise CheckpointError(f"{src}: {rotated} of {head_dim} dimensions are rotated; only all are supported")
    embedding = next((tensor for tensor in reader.tensors if tensor.name == "token_embd.weight"), None)
    if embedding is None:
        raise CheckpointError(f"{src}: the tensor token_embd.weight is missing")
    try:
        return ModelConfig(
            model_type="llama",
            vocab_size=_shape(embedding)[0],
            hidden_size=width,
            intermediate_size=field("llama.feed_forward_length"),
            num_hidden_layers=field("llama.block_count"),
            num_attention_heads=heads,
            num_key_value_heads=field("llama.attention.head_count_kv", heads),
            head_dim=head_dim,
            rope_theta=field("llama.rope.freq_base", 10000.0),
            # Stored in 32 bits: 1e-5 comes back as 9.999999747378752e-06. Seven digits are all it had.
            rms_norm_eps=float(f"{field('llama.attention.layer_norm_rms_epsilon'):.7g}"),
            max_position_embeddings=field("llama.context_length"),
            tie_word_embeddings="output.weight" not in names,
            attention_bias="blk.0.attn_q.bias" in names,
            bos_token_id=field("tokenizer.ggml.bos_token_id", None),
            eos_token_id=field("tokenizer.ggml.eos_token_id", None),
        )
    except SettingError as error:
        raise CheckpointError(f"{src}: {error}") from None


def _hugging_face_name(src: Path, name: str) -> str:
    """``blk.3.attn_q.weight`` -> ``model.layers.3.self_attn.q_proj.weight``."""
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    if match is None or match[2] not in _NAMES:
        raise CheckpointError(f"{src}: the tensor {name} has no place in a llama model")
    layer = "" if match[1] is None else f"model.layers.{match[1]}."
    return f"{layer}{_NAMES[match[2]]}.{match[3]}"


def _shape(tensor: gguf.ReaderTensor) -> tuple[int, ...]:
    """The shape as torch writes it; GGUF counts from the innermost axis."""
    return tuple(int(size) for size in reversed(tensor.shape))


def _check_shapes(
    src: Path, found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]
) -> None:
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} has no place in this model" for name in found if name not in expected]
    problems += [f"{name} has shape {list(found[name])}, its metadata says {list(shape)}"
                 for name, shape in expected.items() if name in found and found[name] != shape]
    if problems:
        raise CheckpointError(f"{src}: {len(problems)} tensors do not fit: {'; '.join(problems[:5])}")


def _read_tensor(tensor: gguf.ReaderTensor, name: str, config: ModelConfig) -> Tensor:
    """The dequantised tensor in float32 and Hugging Face's row order."""
    values: NDArray[Any] = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
    if ".q_proj." in name:
        values = undo_rotary_permutation(values, num_heads=config.num_attention_heads)
    elif ".k_proj." in name:
        values = undo_rotary_permutation(values, num_heads=config.num_key_value_heads)
    return torch.from_numpy(np.array(values))
