"""``config.json`` in Hugging Face's layout, read and written. No torch here: counting a model needs none.

transformers 4 and 5 spell rotary embedding differently; both are read, and what is written is understood by both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

from aha.errors import AhaError, CheckpointError, SettingError, nearest
from aha.model.config import ModelConfig, ModelType, RopeScaling
from aha.util.files import read_json

CONFIG_FILE = "config.json"

_ARCHITECTURES: dict[ModelType, str] = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
}
# Fields without which nothing can be built, then fields transformers leaves out when they have its default value.
_REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_OPTIONAL = ("num_key_value_heads", "rms_norm_eps", "max_position_embeddings", "tie_word_embeddings", "bos_token_id",
             "eos_token_id")  # fmt: skip
_AHEAD = "num_nextn_predict_layers"
_LATENT = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
_EXPERTS = ("n_routed_experts", "n_shared_experts", "num_experts_per_tok", "moe_intermediate_size",
            "first_k_dense_replace", "n_group", "topk_group", "norm_topk_prob", "routed_scaling_factor")  # fmt: skip
_OWN: dict[ModelType, tuple[str, ...]] = {
    "llama": ("head_dim", "attention_bias"),
    "mistral": ("head_dim", "sliding_window"),
    "qwen2": ("head_dim",),
    "qwen3": ("head_dim",),
    "deepseek_v2": (*_LATENT, *_EXPERTS),
    "deepseek_v3": (*_LATENT, *_EXPERTS, "rope_interleave"),
}
# The defaults of transformers' configuration classes, which differ from ours.
_DEEPSEEK = {"q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
             "v_head_dim": 128}  # fmt: skip
_DEFAULTS: dict[ModelType, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2},
    "mistral": {"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096,
                "bos_token_id": 1, "eos_token_id": 2},
    "qwen2": {"max_position_embeddings": 32768, "num_key_value_heads": 32},
    "qwen3": {"max_position_embeddings": 32768, "num_key_value_heads": 32, "head_dim": 128},
    "deepseek_v2": {**_DEEPSEEK, "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2,
                    "n_routed_experts": 64, "n_shared_experts": 2, "moe_intermediate_size": 1407,
                    "first_k_dense_replace": 0, "norm_topk_prob": False, "routed_scaling_factor": 1.0},
    "deepseek_v3": {**_DEEPSEEK, "max_position_embeddings": 4096, "bos_token_id": 0, "eos_token_id": 1,
                    "n_routed_experts": 256, "n_shared_experts": 1, "moe_intermediate_size": 2048,
                    "first_k_dense_replace": 3, "norm_topk_prob": True, "routed_scaling_factor": 2.5,
                    "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4},
}  # fmt: skip
# What a field must say, where it is there: anything else computes what the decoder does not have.
_HARMLESS: tuple[tuple[str, Any], ...] = (
    ("hidden_act", "silu"), ("mlp_bias", False), ("use_sliding_window", False),
    ("moe_layer_freq", 1),
)  # fmt: skip
QUANTIZATION: dict[str, Any] = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
}
"""``quantization_config`` of DeepSeek-V3 and R1."""
_SCORES = {"deepseek_v2": "softmax", "deepseek_v3": "sigmoid"}
_METHODS = {"deepseek_v2": ("greedy", "group_limited_greedy"), "deepseek_v3": ("noaux_tc",)}


def load_config(path: str | Path) -> ModelConfig:
    """The config of the model folder ``path``, or of that ``.json`` file; ``CheckpointError`` when there is none or it
    is not one of our kinds."""
    file = Path(path) if str(path).endswith(".json") else Path(path) / CONFIG_FILE
    if not file.is_file():
        raise CheckpointError(f"{path}: no {file.name}: not a model folder in Hugging Face's layout")
    try:
        fields = read_json(file)
        if not isinstance(fields, dict):
            raise CheckpointError(f"expected an object, found {type(fields).__name__}")
        return from_hugging_face(fields)
    except AhaError as error:
        raise CheckpointError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from None


def model_folder(path: Path) -> Path:
    """``path`` itself, or its ``model/`` where ``path`` is a stage of a run; ``CheckpointError`` if neither is one."""
    for folder in (path, path / "model"):
        if (folder / CONFIG_FILE).is_file():
            return folder
    stages = sorted(found.parent.parent.name for found in path.glob(f"*/model/{CONFIG_FILE}"))
    hint = f"; it is a run: give one of its stages, {path}/NAME: {', '.join(stages)}" if stages else ""
    raise CheckpointError(f"{path} is not a model: neither it nor {path / 'model'} has a {CONFIG_FILE}{hint}")


def find_config(name: str) -> ModelConfig:
    """The config of a folder, a stage of a run or a ``.json`` file, or of the published model of that name."""
    path = Path(name)
    if path.suffix == ".json":
        return load_config(path)
    if path.exists():
        return load_config(model_folder(path))
    published = {file.stem: file for file in (Path(__file__).parent / "published").glob("*.json")}
    if name in published:
        return load_config(published[name])
    raise CheckpointError(f"{name} does not exist, and no model of that name is known: {nearest(name, published)}")


def to_hugging_face(config: ModelConfig, *, dtype: Any) -> dict[str, Any]:
    """``config.json`` of ``config``, with the name of ``dtype``, a torch type or its name. Rotary embedding is said
    twice, as transformers 5 and as transformers 4 read it."""
    fields: dict[str, Any] = {"architectures": [_ARCHITECTURES[config.model_type]], "model_type": config.model_type}
    fields |= {name: getattr(config, name) for name in (*_REQUIRED, *_OPTIONAL, *_OWN[config.model_type])}
    if config.latent_attention:
        methods = _METHODS[config.model_type]
        fields |= {
            "topk_method": methods[config.n_group > 1 and len(methods) > 1],
            "scoring_func": _SCORES[config.model_type],
            "moe_layer_freq": 1,
        }
        if not config.n_routed_experts:
            fields["first_k_dense_replace"] = config.num_hidden_layers + config.num_nextn_predict_layers
    if config.num_nextn_predict_layers or config.model_type == "deepseek_v3":
        fields[_AHEAD] = config.num_nextn_predict_layers
    rope: dict[str, Any] = {"rope_type": "default"}
    if config.rope_scaling is not None:
        rope = config.rope_scaling.model_dump(exclude_none=True)
        fields["rope_scaling"] = {"type": rope["rope_type"], **rope}
    return {
        **fields,
        "hidden_act": "silu",
        "rope_theta": config.rope_theta,
        "rope_parameters": {**rope, "rope_theta": config.rope_theta},
        "dtype": str(dtype).removeprefix("torch."),
    }


def from_hugging_face(fields: Mapping[str, Any]) -> ModelConfig:
    """The config that the ``fields`` of a ``config.json`` describe; fields left out have transformers' defaults.

    ``CheckpointError`` for another architecture and for every field that would change the computation in a way the
    decoder does not have (other rotary scaling, sliding windows of qwen2, biases, activations), and for another
    quantisation than FP8 in blocks.
    """
    kind = fields.get("model_type")
    if kind not in get_args(ModelType):
        raise CheckpointError(f"model_type {kind!r} is not supported: {nearest(str(kind), get_args(ModelType))}")
    model_type = cast(ModelType, kind)
    for name, harmless in _HARMLESS:
        if fields.get(name) not in (harmless, None):
            raise CheckpointError(f"{name} is {fields[name]!r}; only {harmless!r} is supported")
    _check_quantization(fields.get("quantization_config"))
    missing = [name for name in _REQUIRED if fields.get(name) is None]
    if missing:
        raise CheckpointError(f"required fields are missing: {', '.join(missing)}")

    values: dict[str, Any] = {"tie_word_embeddings": False, **_DEFAULTS[model_type]}
    values.setdefault("num_key_value_heads", fields["num_attention_heads"])
    for name in (*_REQUIRED, *_OPTIONAL, *_OWN[model_type], _AHEAD):
        if name in fields:
            values[name] = fields[name]
    if values["num_key_value_heads"] is None:
        values["num_key_value_heads"] = fields["num_attention_heads"]
    # transformers' qwen2 has these biases whatever this field says.
    values["attention_bias"] = bool(fields.get("attention_bias")) and model_type != "qwen2"
    if model_type in _SCORES:
        _read_deepseek(fields, values, model_type)
    try:
        theta, scaling = _rope(fields, values["max_position_embeddings"])
        return ModelConfig(model_type=model_type, rope_theta=theta, rope_scaling=scaling, **values)
    except SettingError as error:
        raise CheckpointError(str(error)) from None


def _check_quantization(found: object) -> None:
    """``CheckpointError`` unless ``found``, a config's ``quantization_config``, is absent or the published one.

    Entries that say nothing of the weights' layout (such as V3.1's ``scale_fmt``) may be there.
    """
    if found is None:
        return
    if not isinstance(found, dict):
        raise CheckpointError(f"quantization_config is {found!r}, expected an object or null")
    for name, value in QUANTIZATION.items():
        if found.get(name, value if name == "fmt" else None) != value:
            raise CheckpointError(f"quantization_config.{name} is {found.get(name)!r}; only {value!r} is supported")


def _read_deepseek(fields: Mapping[str, Any], values: dict[str, Any], model_type: ModelType) -> None:
    """Corrects ``values`` where DeepSeek's configs say nothing by null or 0, and refuses routers we do not have."""
    score, methods = fields.get("scoring_func"), _METHODS[model_type]
    if score not in (None, _SCORES[model_type]):
        raise CheckpointError(f"scoring_func is {score!r}; {model_type} is supported with {_SCORES[model_type]!r}")
    method = fields.get("topk_method") or methods[0]
    if method not in methods:
        raise CheckpointError(f"topk_method is {method!r}; {model_type} is supported with {', '.join(methods)}")
    values["q_lora_rank"] = values["q_lora_rank"] or None
    for name in ("n_routed_experts", "n_shared_experts", "num_experts_per_tok"):
        values[name] = values.get(name) or 0
    for name in ("n_group", "topk_group"):
        values[name] = 1 if method == "greedy" else values.get(name) or 1
    if "num_mtp_layers" in fields:  # transformers' name for it
        values.setdefault(_AHEAD, fields["num_mtp_layers"])
    if values.get("rope_interleave", True) is None:
        del values["rope_interleave"]
    if not values["n_routed_experts"]:
        for name in _EXPERTS:
            values.pop(name, None)


def _rope(fields: Mapping[str, Any], max_position_embeddings: int) -> tuple[float, RopeScaling | None]:
    """Rotary base and scaling, wherever they stand: ``rope_parameters`` (transformers 5), ``rope_theta`` and
    ``rope_scaling`` (4; where both are given transformers 5, too, believes this one), or left out."""
    theta, chosen, where = fields.get("rope_theta", 10000.0), None, ""
    _refuse_partial_rotation(fields)
    for name in ("rope_parameters", "rope_scaling"):
        rope = fields.get(name)
        if rope is None:
            continue
        if not isinstance(rope, dict):
            raise CheckpointError(f"{name} is {rope!r}, expected an object or null")
        theta = rope.get("rope_theta", theta)
        _refuse_partial_rotation(rope)
        chosen, where = rope, name
    if chosen is None:
        return cast(float, theta), None
    kind = chosen.get("rope_type", chosen.get("type", "default"))
    plain = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    given = {name: value for name, value in chosen.items() if name not in plain and value is not None}
    if kind == "default":
        if given:
            raise CheckpointError(f"{where} has {sorted(given)}, which plain rotary embedding does not use")
        return cast(float, theta), None
    known = ("default", *get_args(RopeScaling.model_fields["rope_type"].annotation))
    if kind not in known:
        raise CheckpointError(
            f"{where} asks for {kind!r} rotary scaling, which is not supported; known: {', '.join(known)}"
        )
    given.pop("finetuned", None)  # in published scaling, and nobody reads it
    share = given.pop("attn_factor", None)
    if kind != "linear":
        original = given.setdefault("original_max_position_embeddings", max_position_embeddings)
        if "factor" not in given:
            if not all(isinstance(tokens, int) and tokens > 0 for tokens in (original, max_position_embeddings)):
                raise CheckpointError(
                    f"{where} has no factor, and none follows from original_max_position_embeddings {original!r} and "
                    f"max_position_embeddings {max_position_embeddings!r}"
                )
            given["factor"] = max_position_embeddings / original
    if share is not None and not isinstance(share, int | float):
        raise CheckpointError(f"{where} has the attn_factor {share!r}, which is no number")
    if share is not None and kind == "yarn" and "mscale" not in given and isinstance(given["factor"], int | float):
        # Of DeepSeek-R1-0528-Qwen3-8B, which is served so (vLLM, SGLang); transformers reads what it comes to alone.
        given.setdefault("attention_factor", share * (0.1 * math.log(max(given["factor"], 1)) + 1))
    return cast(float, theta), RopeScaling(**given, rope_type=cast(Any, kind))


def _refuse_partial_rotation(fields: Mapping[str, Any]) -> None:
    if fields.get("partial_rotary_factor") not in (None, 1):
        raise CheckpointError(f"partial_rotary_factor is {fields['partial_rotary_factor']}; only 1 is supported")
