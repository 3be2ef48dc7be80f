"""Model folders in Hugging Face's layout: ``config.json`` and safetensors, one file or shards, in and out.

transformers loads what ``save_model`` writes (but for modules of multi-token prediction, which it leaves aside).
``load_model`` reads what transformers (4 and 5) writes and what is
published in this layout; it compares every tensor's name, shape and type with the config from the files' headers alone,
before any memory for weights is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from aha.errors import CheckpointError, SettingError
from aha.model.config import ModelConfig
from aha.model.config_file import CONFIG_FILE, QUANTIZATION, load_config, to_hugging_face
from aha.model.decoder import Decoder, build_empty_decoder, published_tensors
from aha.model.fp8 import E4M3
from aha.model.fp8_checkpoint import dequantize_tensors, is_quantized, quantize_tensors, scale_name, scale_shape
from aha.model.moe import ROUTER_BIAS
from aha.model.tensor_file import TYPES, Entry, Planned, open_tensors, read_header, write_tensors
from aha.util.files import read_json, write_json_atomic

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000

_FLOAT_TYPES = ("F64", "F32", "F16", "BF16")
_FP8_TYPE = "F8_E4M3"


def save_model(
    decoder: nn.Module, config: ModelConfig, path: str | Path, *, shard_bytes: int = SHARD_BYTES, fp8: bool = False
) -> None:
    """Writes ``config.json`` and the weights into the folder ``path``, each file whole or not at all.

    Weights keep their type, but with ``fp8`` the matrices of the layers become FP8 with block scales, as DeepSeek-V3 is
    published. A tied head is written once, as the embedding. More than ``shard_bytes`` become several files and an
    index.
    """
    tensors = dict(published_tensors(decoder))
    if config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    planned: dict[str, Planned] = {}
    for name, tensor in tensors.items():
        planned |= _plan(name, Planned(tensor.dtype, tuple(tensor.shape), lambda t=tensor: t), fp8=fp8)  # type: ignore[misc]
    _write_weights(path, planned, shard_bytes)
    fields = to_hugging_face(config, dtype=tensors["model.embed_tokens.weight"].dtype)
    write_json_atomic(path / CONFIG_FILE, {**fields, "quantization_config": QUANTIZATION} if fp8 else fields)


def load_model(path: str | Path, *, dtype: torch.dtype = torch.float32) -> tuple[Decoder, ModelConfig]:
    """The decoder in the folder ``path``, its weights cast to ``dtype`` (FP8 ones times their scales), and its config.

    Where ``config.json`` tells of modules of multi-token prediction and no file holds any, as in what transformers has
    saved again, the model is one without. ``CheckpointError`` names the file, field or tensor that does not fit, and
    both shapes.
    """
    if dtype not in {TYPES[name] for name in _FLOAT_TYPES}:
        raise SettingError(f"weights cannot be computed with as {dtype}: take float32, bfloat16, float16 or float64")
    entries, config = check_weights(Path(path), load_config(path))
    decoder = build_empty_decoder(config, dtype=dtype)
    targets, copies = dict(published_tensors(decoder)), _shared_copies(config)
    with torch.no_grad():
        for name, value in dequantize_tensors(
            _read({name: entry for name, entry in entries.items() if name not in copies})
        ):
            targets[name].copy_(value)
        for name, value in _read({name: entry for name, entry in entries.items() if name in copies}):
            _compare(targets[copies[name]], value, name, copies[name], entries[name].file)
    return decoder, config


def convert_folder(
    source: Path, target: Path, *, dtype: torch.dtype, shard_bytes: int = SHARD_BYTES
) -> ModelConfig:
    """Writes the model folder ``source`` as ``target`` with weights of ``dtype``; every other field of its config and
    every tensor stays, modules of multi-token prediction included. One tensor is in memory at a time. ``float8_e4m3fn``
    stands for the published layout: matrices of the layers in FP8 with block scales, the rest in bfloat16."""
    fp8 = dtype == E4M3
    dtype = torch.bfloat16 if fp8 else dtype
    entries, config = check_weights(source, load_config(source))

    def plan(name: str, entry: Entry) -> dict[str, Planned]:
        parts = {part: entries[part] for part in (name, scale_name(name)) if part in entries}

        def read() -> Tensor:
            return next(dequantize_tensors(_read(parts)))[1]

        kept = torch.float32 if name.endswith(ROUTER_BIAS) else dtype
        return _plan(name, Planned(kept, entry.shape, read), fp8=fp8)

    target.mkdir(parents=True, exist_ok=True)
    scales = {scale_name(name) for name, entry in entries.items() if entry.dtype == _FP8_TYPE}
    planned: dict[str, Planned] = {}
    for name, entry in entries.items():
        if name not in scales:
            planned |= plan(name, entry)
    _write_weights(target, planned, shard_bytes)
    fields = cast(dict[str, Any], read_json(source / CONFIG_FILE))
    named = str(dtype).removeprefix("torch.")
    fields |= dict.fromkeys({"dtype", "torch_dtype"} & fields.keys() or {"dtype"}, named)
    fields.pop("quantization_config", None)
    if fp8:
        fields["quantization_config"] = QUANTIZATION
    write_json_atomic(target / CONFIG_FILE, fields)
    return config


def check_weights(path: Path, config: ModelConfig) -> tuple[dict[str, Entry], ModelConfig]:
    """Every tensor of the folder's weights, after its name, shape and type were compared with ``config``; and the
    config of what is there: without modules of multi-token prediction where there are none.

    Only headers are read. ``CheckpointError`` lists what is missing, has no place, or has another shape.
    """
    problems: list[str] = []
    found: dict[str, Entry] = {}
    for file, promised in _weight_files(path).items():
        held = read_header(file)
        for name in set(promised or ()) - held.keys():
            problems.append(f"{name} is not in {file.name}, where the index says it is")
        found |= {name: entry for name, entry in held.items() if promised is None or name in promised}
    if config.num_nextn_predict_layers and not any(_is_behind(name, config) for name in found):
        config = config.model_copy(update={"num_nextn_predict_layers": 0})
    expected = {name: tuple(t.shape) for name, t in published_tensors(build_empty_decoder(config, device="meta"))}
    copies = _shared_copies(config)
    expected |= {name: expected[original] for name, original in copies.items()}
    scales = {scale_name(name): scale_shape(shape) for name, shape in expected.items() if is_quantized(name, shape)}
    needed = {scale_name(name) for name, entry in found.items() if entry.dtype == _FP8_TYPE} & scales.keys()
    places = expected | scales
    for name, entry in list(found.items()):
        where, shape = entry.file.name, list(entry.shape)
        if name.endswith("rotary_emb.inv_freq") or (name not in places and 0 in entry.shape):
            del found[name]  # a constant that old exports save; shared experts of width 0
        elif entry.dtype not in _FLOAT_TYPES and scale_name(name) not in needed:
            problems.append(f"{name} in {where} has type {entry.dtype}; known: {', '.join(_FLOAT_TYPES)}")
        elif name in places and entry.shape != places[name]:
            problems.append(f"{name} in {where} has shape {shape}, the config says {list(places[name])}")
        elif name not in places:
            problems.append(f"{name} in {where} has no place in this model")
    problems += [f"{name} {list(shape)} is missing" for name, shape in expected.items()
                 if name not in found and name not in copies]
    problems += [f"{name} is missing, the scales of an FP8 weight" for name in sorted(needed - found.keys())]
    problems += [f"{name} scales a weight that is not FP8" for name in sorted(scales.keys() & found.keys() - needed)]
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise CheckpointError(f"{path}: the weights do not fit {CONFIG_FILE}: {'; '.join(problems[:5])}{more}")
    return found, config


def _is_behind(name: str, config: ModelConfig) -> bool:
    layer = re.match(r"model\.layers\.(\d+)\.", name)
    return layer is not None and int(layer[1]) >= config.num_hidden_layers


def _shared_copies(config: ModelConfig) -> dict[str, str]:
    """Tensors that a folder may hold a second time, and of which each is a copy."""
    copies = {"lm_head.weight": "model.embed_tokens.weight"} if config.tie_word_embeddings else {}
    for index in range(config.num_hidden_layers, config.num_hidden_layers + config.num_nextn_predict_layers):
        copies[f"model.layers.{index}.embed_tokens.weight"] = "model.embed_tokens.weight"
        copies[f"model.layers.{index}.shared_head.head.weight"] = "lm_head.weight"
    return copies


def _plan(name: str, planned: Planned, *, fp8: bool) -> dict[str, Planned]:
    """The tensor as it is, or with ``fp8``, where the published layout has it so, its FP8 values and their scales."""
    if not fp8 or not is_quantized(name, planned.shape):
        return {name: planned}

    def part(index: int) -> Tensor:
        return list(quantize_tensors([(name, planned.make())]))[index][1]

    return {
        name: Planned(E4M3, planned.shape, lambda: part(0)),
        scale_name(name): Planned(torch.float32, scale_shape(planned.shape), lambda: part(1)),
    }


def _read(entries: Mapping[str, Entry]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor in turn, file by file."""
    by_file: dict[Path, list[str]] = {}
    for name, entry in entries.items():
        by_file.setdefault(entry.file, []).append(name)
    for file, names in by_file.items():
        with open_tensors(file) as tensors:
            for name in names:
                yield name, tensors.get_tensor(name)


def _compare(original: Tensor, value: Tensor, name: str, of: str, file: Path) -> None:
    if torch.equal(original, value.to(original.dtype)):
        return
    if name == "lm_head.weight":
        why = f"yet tie_word_embeddings is true in {CONFIG_FILE}; set it to false to keep both"
    else:
        why = "yet modules of multi-token prediction share it with the body"
    raise CheckpointError(f"{file}: {name} differs from {of}, {why}")


def _write_weights(path: Path, tensors: Mapping[str, Planned], shard_bytes: int) -> None:
    """One file, or shards and their index; what lay in the folder before is removed."""
    shards: list[dict[str, Planned]] = [{}]
    filled = 0
    for name, planned in tensors.items():
        if shards[-1] and filled + planned.num_bytes > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = planned
        filled += planned.num_bytes
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = [WEIGHTS_FILE]
    # Without its index a sharded model is not read: no mixture of old and new weights passes for a model.
    (path / INDEX_FILE).unlink(missing_ok=True)
    for name, shard in zip(names, shards, strict=True):
        write_tensors(path / name, shard)
    for old in [path / WEIGHTS_FILE, *path.glob("model-*-of-*.safetensors")]:
        if old.name not in names:
            old.unlink(missing_ok=True)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(planned.num_bytes for planned in tensors.values())},
            "weight_map": {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard},
        }
        write_json_atomic(path / INDEX_FILE, index)


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
