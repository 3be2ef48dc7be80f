"""Model folders in Hugging Face's layout: ``config.json`` and safetensors of llama, qwen2 and qwen3, in and out.

transformers loads what ``save_model`` writes (but for modules of multi-token prediction, which it leaves aside: it has
them for other architectures). ``load_model`` reads what transformers (4 and 5) writes and what is
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
# Fields without which nothing can be built, then fields transformers leaves out when they have its default value.
_REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_OPTIONAL = ("num_key_value_heads", "head_dim", "rms_norm_eps", "max_position_embeddings", "tie_word_embeddings",
             "num_nextn_predict_layers", "bos_token_id", "eos_token_id")
# The defaults of transformers' configuration classes, which differ from ours.
_DEFAULTS: dict[ModelType, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2},
    "qwen2": {"max_position_embeddings": 32768, "num_key_value_heads": 32},
    "qwen3": {"max_position_embeddings": 32768, "num_key_value_heads": 32, "head_dim": 128},
}


def save_model(decoder: nn.Module, config: ModelConfig, path: str | Path) -> None:
    """Writes ``config.json`` and ``model.safetensors`` into the folder ``path``, each whole or not at all.

    Weights keep their type. A tied head is written once, as the embedding.
    """
    state = {name: tensor.detach() for name, tensor in decoder.state_dict().items()}
    if config.tie_word_embeddings:
        del state["lm_head.weight"]
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    # A sharded model that lay here before would otherwise be read in place of this one.
    (path / INDEX_FILE).unlink(missing_ok=True)
    save_tensors_atomic(path / WEIGHTS_FILE, state)
    write_json_atomic(path / CONFIG_FILE, to_hugging_face(config, dtype=next(iter(state.values())).dtype))


def load_model(path: str | Path, *, dtype: torch.dtype = torch.float32) -> tuple[Decoder, ModelConfig]:
    """The decoder in the folder ``path``, its weights cast to ``dtype``, and its config.

    Where ``config.json`` tells of modules of multi-token prediction and no file holds any, as in what transformers has
    saved again, the model is one without. ``CheckpointError`` names the file, field or tensor that does not fit, and
    both shapes.
    """
    path = Path(path)
    config = load_config(path)
    files = _weight_files(path)
    if config.num_nextn_predict_layers and not _has_modules_ahead(files, config):
        config = config.model_copy(update={"num_nextn_predict_layers": 0})
    expected = {
        name: tuple(tensor.shape) for name, tensor in build_empty_decoder(config, device="meta").state_dict().items()
    }
    copies = _shared_copies(config)
    found = _check_headers(path, files, expected, copies)

    decoder = build_empty_decoder(config, dtype=dtype)
    targets = decoder.state_dict()
    with torch.no_grad():
        for file, names in found.items():
            with _open(file) as tensors:
                for name in (name for name in names if name not in copies):
                    targets[name].copy_(tensors.get_tensor(name))
        for file, names in found.items():
            again = [name for name in names if name in copies]
            if again:
                with _open(file) as tensors:
                    for name in again:
                        _compare(targets[copies[name]], tensors.get_tensor(name), name, copies[name], file)
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
    unsaid = {"attention_bias"} if config.model_type != "llama" else set()
    unsaid |= set() if config.num_nextn_predict_layers else {"num_nextn_predict_layers"}
    return {
        "architectures": [_ARCHITECTURES[config.model_type]],
        **config.model_dump(exclude=unsaid),
        "hidden_act": "silu",
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "dtype": str(dtype).removeprefix("torch."),
    }


def from_hugging_face(fields: Mapping[str, Any]) -> ModelConfig:
    """The config that the ``fields`` of a ``config.json`` describe; fields left out have transformers' defaults.

    ``CheckpointError`` for another architecture and for every field that would change the computation in a way the
    decoder does not have (rotary scaling, sliding windows, biases, other activations, quantisation).
    """
    kind = fields.get("model_type")
    if kind not in get_args(ModelType):
        raise CheckpointError(f"model_type {kind!r} is not supported: {nearest(str(kind), get_args(ModelType))}")
    model_type = cast(ModelType, kind)
    for name, harmless in (("hidden_act", "silu"), ("mlp_bias", False), ("use_sliding_window", False),
                           ("quantization_config", None)):
        if fields.get(name) not in (harmless, None):
            raise CheckpointError(f"{name} is {fields[name]!r}; only {harmless!r} is supported")
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
    path: Path,
    files: Mapping[Path, list[str] | None],
    expected: Mapping[str, tuple[int, ...]],
    copies: Mapping[str, str],
) -> dict[Path, list[str]]:
    """The names to read from each file, after every name, shape and type was compared with ``expected``.

    ``copies`` may be there or not.
    """
    expected = {**expected, **{name: expected[original] for name, original in copies.items()}}
    found: dict[Path, list[str]] = {}
    where: dict[str, Path] = {}
    problems: list[str] = []
    for file, promised in files.items():
        with _open(file) as tensors:
            held = list(tensors.keys())
            for name in set(promised or ()) - set(held):
                problems.append(f"{name} is not in {file.name}, where the index says it is")
            for name in held if promised is None else [name for name in promised if name in held]:
                if name.endswith("rotary_emb.inv_freq"):  # old exports save this constant
                    continue
                if name not in expected:
                    problems.append(f"{name} in {file.name} has no place in this model")
                    continue
                view = tensors.get_slice(name)
                shape, kind = tuple(view.get_shape()), view.get_dtype()
                if shape != expected[name]:
                    problems.append(f"{name} in {file.name} has shape {list(shape)}, the config says "
                                    f"{list(expected[name])}")
                elif kind not in _FLOAT_TYPES:
                    problems.append(f"{name} in {file.name} has type {kind}; known: {', '.join(_FLOAT_TYPES)}")
                else:
                    found.setdefault(file, []).append(name)
                where[name] = file
    problems += [f"{name} {list(shape)} is missing" for name, shape in expected.items()
                 if name not in where and name not in copies]
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise CheckpointError(f"{path}: the weights do not fit {CONFIG_FILE}: {'; '.join(problems[:5])}{more}")
    return found


def _has_modules_ahead(files: Mapping[Path, list[str] | None], config: ModelConfig) -> bool:
    behind = tuple(f"model.layers.{config.num_hidden_layers + k}." for k in range(config.num_nextn_predict_layers))
    for file in files:
        with _open(file) as tensors:
            if any(name.startswith(behind) for name in tensors.keys()):  # noqa: SIM118
                return True
    return False


def _shared_copies(config: ModelConfig) -> dict[str, str]:
    """Tensors that a folder may hold a second time, and of which each is a copy."""
    copies = {"lm_head.weight": "model.embed_tokens.weight"} if config.tie_word_embeddings else {}
    for index in range(config.num_hidden_layers, config.num_hidden_layers + config.num_nextn_predict_layers):
        copies[f"model.layers.{index}.embed_tokens.weight"] = "model.embed_tokens.weight"
        copies[f"model.layers.{index}.shared_head.head.weight"] = "lm_head.weight"
    return copies


def _compare(original: Tensor, value: Tensor, name: str, of: str, file: Path) -> None:
    if torch.equal(original, value.to(original.dtype)):
        return
    if name == "lm_head.weight":
        why = f"yet tie_word_embeddings is true in {CONFIG_FILE}; set it to false to keep both"
    else:
        why = "yet modules of multi-token prediction share it with the body"
    raise CheckpointError(f"{file}: {name} differs from {of}, {why}")


@contextmanager
def _open(file: Path) -> Iterator[Any]:
    """A safetensors file; a broken one is a ``CheckpointError``."""
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except SafetensorError as error:
        raise CheckpointError(f"{file}: not a whole safetensors file ({error})") from None
