"""Model folders in Hugging Face's layout: ``config.json`` and safetensors of llama, qwen2 and qwen3, in and out.

transformers loads what ``save_model`` writes. ``load_model`` reads what transformers (4 and 5) writes and what is
published in this layout; it compares every tensor's name, shape and type with the config from the files' headers alone,
before any memory for weights is taken.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from aha.errors import AhaError, CheckpointError, SettingError, nearest
from aha.model.config import ModelConfig, ModelType
from aha.model.decoder import Decoder, build_empty_decoder
from aha.model.fp8_checkpoint import (
    QUANTIZATION,
    check_quantization,
    dequantize_tensors,
    is_quantized,
    quantize_tensors,
    scale_name,
    scale_shape,
)
from aha.util.files import read_json, write_json_atomic

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_ARCHITECTURES: dict[ModelType, str] = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_FLOAT_TYPES = ("F64", "F32", "F16", "BF16")
_FP8_TYPE = "F8_E4M3"
# Fields without which nothing can be built, then fields transformers leaves out when they have its default value.
_REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_OPTIONAL = ("num_key_value_heads", "head_dim", "rms_norm_eps", "max_position_embeddings", "tie_word_embeddings",
             "bos_token_id", "eos_token_id")
# The defaults of transformers' configuration classes, which differ from ours.
_DEFAULTS: dict[ModelType, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2},
    "qwen2": {"max_position_embeddings": 32768, "num_key_value_heads": 32},
    "qwen3": {"max_position_embeddings": 32768, "num_key_value_heads": 32, "head_dim": 128},
}


def save_model(decoder: nn.Module, config: ModelConfig, path: str | Path, *, fp8: bool = False) -> None:
    """Writes ``config.json`` and ``model.safetensors`` into the folder ``path``, each whole or not at all.

    Weights keep their type, but with ``fp8`` the matrices of the layers become FP8 with block scales, as DeepSeek-V3 is
    published. A tied head is written once, as the embedding.
    """
    state = {name: tensor.detach() for name, tensor in decoder.state_dict().items()}
    if config.tie_word_embeddings:
        del state["lm_head.weight"]
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    # A sharded model that lay here before would otherwise be read in place of this one.
    (path / INDEX_FILE).unlink(missing_ok=True)
    fields = to_hugging_face(config, dtype=next(iter(state.values())).dtype)
    if fp8:
        fields["quantization_config"] = QUANTIZATION
        state = dict(quantize_tensors(state.items()))
    save_tensors_atomic(path / WEIGHTS_FILE, state)
    write_json_atomic(path / CONFIG_FILE, fields)


def load_model(path: str | Path, *, dtype: torch.dtype = torch.float32) -> tuple[Decoder, ModelConfig]:
    """The decoder in the folder ``path``, its weights cast to ``dtype`` (FP8 ones times their scales), and its config.

    ``CheckpointError`` names the file, field or tensor that does not fit, and both shapes.
    """
    path = Path(path)
    config = load_config(path)
    files = _weight_files(path)
    expected = {
        name: tuple(tensor.shape) for name, tensor in build_empty_decoder(config, device="meta").state_dict().items()
    }
    found = _check_headers(path, files, expected, tied=config.tie_word_embeddings)

    decoder = build_empty_decoder(config, dtype=dtype)
    targets = decoder.state_dict()
    with torch.no_grad():
        for name, tensor in dequantize_tensors(_read(found)):
            _fill(targets[name], tensor, name=name, path=path, twice=_is_tied(name, config))
    return decoder, config


def load_config(path: str | Path) -> ModelConfig:
    """The config of the model folder ``path``; ``CheckpointError`` when it is not a folder or not one of our kinds."""
    file = Path(path) / CONFIG_FILE
    if not file.is_file():
        raise CheckpointError(f"{path}: no {CONFIG_FILE}: not a model folder in Hugging Face's layout")
    try:
        fields = read_json(file)
        if not isinstance(fields, dict):
            raise CheckpointError(f"expected an object, found {type(fields).__name__}")
        return from_hugging_face(fields)
    except AhaError as error:
        raise CheckpointError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from None


def to_hugging_face(config: ModelConfig, *, dtype: torch.dtype) -> dict[str, Any]:
    """``config.json`` of ``config``. The rotary base is said twice, as transformers 5 and as transformers 4 read it."""
    return {
        "architectures": [_ARCHITECTURES[config.model_type]],
        **config.model_dump(exclude={"attention_bias"} if config.model_type != "llama" else None),
        "hidden_act": "silu",
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "dtype": str(dtype).removeprefix("torch."),
    }


def from_hugging_face(fields: Mapping[str, Any]) -> ModelConfig:
    """The config that the ``fields`` of a ``config.json`` describe; fields left out have transformers' defaults.

    ``CheckpointError`` for another architecture and for every field that would change the computation in a way the
    decoder does not have (rotary scaling, sliding windows, biases, other activations), and for another quantisation
    than FP8 in blocks.
    """
    kind = fields.get("model_type")
    if kind not in get_args(ModelType):
        raise CheckpointError(f"model_type {kind!r} is not supported: {nearest(str(kind), get_args(ModelType))}")
    model_type = cast(ModelType, kind)
    for name, harmless in (("hidden_act", "silu"), ("mlp_bias", False), ("use_sliding_window", False)):
        if fields.get(name) not in (harmless, None):
            raise CheckpointError(f"{name} is {fields[name]!r}; only {harmless!r} is supported")
    check_quantization(fields.get("quantization_config"))
    missing = [name for name in _REQUIRED if fields.get(name) is None]
    if missing:
        raise CheckpointError(f"required fields are missing: {', '.join(missing)}")

    values: dict[str, Any] = {"tie_word_embeddings": False, **_DEFAULTS[model_type]}
    values.setdefault("num_key_value_heads", fields["num_attention_heads"])
    for name in (*_REQUIRED, *_OPTIONAL):
        if name in fields:
            values[name] = fields[name]
    if values["num_key_value_heads"] is None:
        values["num_key_value_heads"] = fields["num_attention_heads"]
    # transformers' qwen2 has these biases whatever this field says.
    attention_bias = bool(fields.get("attention_bias")) and model_type != "qwen2"
    try:
        return ModelConfig(
            model_type=model_type, rope_theta=_rope_theta(fields), attention_bias=attention_bias, **values
        )
    except SettingError as error:
        raise CheckpointError(str(error)) from None


def save_tensors_atomic(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file that is whole or absent."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        usual_mode = temporary.stat().st_mode
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, {"format": "pt"})
        temporary.chmod(usual_mode)  # the library leaves the file readable by its owner alone
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors of a small safetensors file, which must be exactly ``shapes``; else ``CheckpointError``."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    with _open(path) as tensors:
        found = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        if found != dict(shapes):
            raise CheckpointError(f"{path}: holds {found}, expected {dict(shapes)}")
        return {name: tensors.get_tensor(name) for name in shapes}


def _rope_theta(fields: Mapping[str, Any]) -> float:
    """The rotary base, wherever it stands: ``rope_parameters`` (transformers 5), ``rope_theta`` (4), or left out."""
    theta = fields.get("rope_theta", 10000.0)
    for name in ("rope_scaling", "rope_parameters"):
        rope = fields.get(name)
        if rope is None:
            continue
        if not isinstance(rope, dict):
            raise CheckpointError(f"{name} is {rope!r}, expected an object or null")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise CheckpointError(f"{name} asks for {kind!r} rotary scaling, which is not supported; known: default")
        unknown = set(rope) - {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
        if unknown:
            raise CheckpointError(f"{name} has {sorted(unknown)}, which plain rotary embedding does not use")
        theta = rope.get("rope_theta", theta)
        _refuse_partial_rotation(rope)
    _refuse_partial_rotation(fields)
    return cast(float, theta)


def _refuse_partial_rotation(fields: Mapping[str, Any]) -> None:
    if fields.get("partial_rotary_factor") not in (None, 1):
        raise CheckpointError(f"partial_rotary_factor is {fields['partial_rotary_factor']}; only 1 is supported")


def _weight_files(path: Path) -> dict[Path, list[str] | None]:
    """The safetensors files of a folder, with the tensors the index promises in each (None: no index, all of them)."""
    if (path / WEIGHTS_FILE).is_file():
        return {path / WEIGHTS_FILE: None}
    index = path / INDEX_FILE
    if not index.is_file():
        others = sorted(file.name for file in path.glob("*.bin")) + sorted(file.name for file in path.glob("*.gguf"))
        hint = f" (found {', '.join(others)}: convert it to safetensors first)" if others else ""
        raise CheckpointError(f"{path}: neither {WEIGHTS_FILE} nor {INDEX_FILE}{hint}")
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: no weight_map")
    files: dict[Path, list[str] | None] = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise CheckpointError(f"{index}: {name} lies in {shard!r}, which is not a file of this folder")
        cast(list[str], files.setdefault(path / shard, [])).append(name)
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{index}: the shard {file.name} is missing")
    return files


def _check_headers(
    path: Path, files: Mapping[Path, list[str] | None], expected: Mapping[str, tuple[int, ...]], *, tied: bool
) -> dict[Path, list[str]]:
    """The names to read from each file, after every name, shape and type was compared with ``expected``."""
    scales = {scale_name(name): scale_shape(shape) for name, shape in expected.items() if is_quantized(name, shape)}
    shapes = {**expected, **scales}
    found: dict[Path, list[str]] = {}
    where: dict[str, Path] = {}
    needed: set[str] = set()
    problems: list[str] = []
    for file, promised in files.items():
        with _open(file) as tensors:
            held = list(tensors.keys())
            for name in set(promised or ()) - set(held):
                problems.append(f"{name} is not in {file.name}, where the index says it is")
            for name in held if promised is None else [name for name in promised if name in held]:
                if name.endswith("rotary_emb.inv_freq"):  # old exports save this constant
                    continue
                if name not in shapes:
                    problems.append(f"{name} in {file.name} has no place in this model")
                    continue
                view = tensors.get_slice(name)
                shape, kind = tuple(view.get_shape()), view.get_dtype()
                if kind == _FP8_TYPE and scale_name(name) in scales:
                    needed.add(scale_name(name))
                    kind = _FLOAT_TYPES[0]
                if shape != shapes[name]:
                    problems.append(f"{name} in {file.name} has shape {list(shape)}, the config says "
                                    f"{list(shapes[name])}")
                elif kind not in _FLOAT_TYPES:
                    problems.append(f"{name} in {file.name} has type {kind}; known: {', '.join(_FLOAT_TYPES)}")
                else:
                    found.setdefault(file, []).append(name)
                where[name] = file
    optional = {"lm_head.weight"} if tied else set()
    problems += [f"{name} {list(shape)} is missing" for name, shape in expected.items()
                 if name not in where and name not in optional]
    problems += [f"{name} is missing, the scales of an FP8 weight" for name in sorted(needed - where.keys())]
    problems += [f"{name} scales a weight that is not FP8" for name in sorted(scales.keys() & where.keys() - needed)]
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise CheckpointError(f"{path}: the weights do not fit {CONFIG_FILE}: {'; '.join(problems[:5])}{more}")
    # The embedding comes before a tied head, which is then only compared with it.
    for names in found.values():
        names.sort(key=lambda name: name == "lm_head.weight")
    return dict(sorted(found.items(), key=lambda item: "lm_head.weight" in item[1]))


def _is_tied(name: str, config: ModelConfig) -> bool:
    return name == "lm_head.weight" and config.tie_word_embeddings


def _read(found: Mapping[Path, list[str]]) -> Iterator[tuple[str, Tensor]]:
    for file, names in found.items():
        with _open(file) as tensors:
            for name in names:
                yield name, tensors.get_tensor(name)


def _fill(target: Tensor, value: Tensor, *, name: str, path: Path, twice: bool) -> None:
    """Copies ``value`` into ``target``, or only compares them where ``target`` was filled under another name."""
    if not twice:
        target.copy_(value)
    elif not torch.equal(target, value.to(target.dtype)):
        raise CheckpointError(
            f"{path}: {name} differs from model.embed_tokens.weight, yet tie_word_embeddings is true in {CONFIG_FILE}; "
            "set it to false to keep both"
        )


@contextmanager
def _open(file: Path) -> Iterator[Any]:
    """A safetensors file; a broken one is a ``CheckpointError``."""
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except SafetensorError as error:
        raise CheckpointError(f"{file}: not a whole safetensors file ({error})") from None
