"""FP8 folders in the published layout: in, out, and through transformers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, FineGrainedFP8Config

from aha.errors import CheckpointError
from aha.model.config import ModelConfig
from aha.model.config_file import from_hugging_face
from aha.model.decoder import Decoder, build_decoder
from aha.model.folder import convert_folder, load_model, save_model
from aha.model.fp8 import E4M3
from aha.model.fp8_checkpoint import dequantize_tensors, is_quantized, quantize_tensors

PUBLISHED = {
    "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128],
}  # fmt: skip


@pytest.fixture
def decoder() -> Decoder:
    config = ModelConfig(
        model_type="llama", vocab_size=61, hidden_size=136, intermediate_size=200, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    return build_decoder(config, seed=1)


def write_published(decoder: Decoder, folder: Path, *, shards: bool = False) -> dict[str, Tensor]:
    """A folder as DeepSeek publishes, made by loops; the weights that it stands for."""
    tensors: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    for name, tensor in decoder.state_dict().items():
        if "_proj" not in name:
            tensors[name] = weights[name] = tensor.bfloat16()
            continue
        rows, columns = tensor.shape
        scales = torch.empty(-(-rows // 128), -(-columns // 128))
        fp8 = torch.empty(rows, columns, dtype=torch.float8_e4m3fn)
        weights[name] = torch.empty(rows, columns)
        for i in range(scales.shape[0]):
            for j in range(scales.shape[1]):
                place = slice(128 * i, 128 * i + 128), slice(128 * j, 128 * j + 128)
                scales[i, j] = tensor[place].abs().max() / 448 * 1.1  # any scale will do to read
                fp8[place] = (tensor[place] / scales[i, j]).to(torch.float8_e4m3fn)
                weights[name][place] = fp8[place].float() * scales[i, j]
        tensors[name], tensors[f"{name}_scale_inv"] = fp8, scales
    folder.mkdir(exist_ok=True)
    save_model(decoder, decoder.config, folder)
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, "quantization_config": PUBLISHED}))
    if not shards:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return weights
    (folder / "model.safetensors").unlink()
    # The scales lie in another file than their weights, and come first.
    parts = {"a.safetensors": {n: t for n, t in tensors.items() if n.endswith("_inv")}}
    parts["b.safetensors"] = {n: t for n, t in tensors.items() if n not in parts["a.safetensors"]}
    for file, part in parts.items():
        save_file(part, folder / file, {"format": "pt"})
    weight_map = {name: file for file, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return weights


@pytest.mark.parametrize("shards", [False, True])
def test_a_published_folder_loads_as_value_times_scale(decoder: Decoder, tmp_path: Path, shards: bool) -> None:
    weights = write_published(decoder, tmp_path, shards=shards)
    for dtype in (torch.float32, torch.bfloat16):
        loaded, config = load_model(tmp_path, dtype=dtype)
        assert config == decoder.config
        for name, tensor in loaded.state_dict().items():
            assert torch.equal(tensor, weights[name].to(dtype)), name


def test_we_write_the_published_layout(decoder: Decoder, tmp_path: Path) -> None:
    save_model(decoder.bfloat16(), decoder.config, tmp_path, fp8=True)
    tensors = load_file(tmp_path / "model.safetensors")
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"] == PUBLISHED
    name = "model.layers.1.mlp.down_proj.weight"
    assert tensors[name].dtype == torch.float8_e4m3fn and tensors[name].shape == (136, 200)
    assert tensors[f"{name}_scale_inv"].dtype == torch.float32 and tensors[f"{name}_scale_inv"].shape == (2, 2)
    kept = {n for n, t in tensors.items() if t.dtype == torch.bfloat16}
    assert kept == {n for n in decoder.state_dict() if "_proj" not in n}
    assert len(tensors) == len(decoder.state_dict()) + 2 * 7


def test_transformers_reads_what_we_write_as_we_do(tmp_path: Path) -> None:
    config = ModelConfig(
        vocab_size=61, hidden_size=128, intermediate_size=256, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    save_model(build_decoder(config, seed=1, dtype=torch.bfloat16), config, tmp_path, fp8=True)
    quantization: Any = FineGrainedFP8Config(dequantize=True)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=quantization, dtype=torch.bfloat16)
    ours, _ = load_model(tmp_path, dtype=torch.bfloat16)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor.bfloat16()), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fp8_to_wider_and_back_keeps_every_value(decoder: Decoder, tmp_path: Path, dtype: torch.dtype) -> None:
    """Rounding the dequantised weight to BF16 moves a value by 2^-9 of itself, E4M3's steps are 2^-4: it goes back."""
    save_model(decoder, decoder.config, tmp_path / "fp8", fp8=True)
    wide, config = load_model(tmp_path / "fp8", dtype=dtype)
    save_model(wide, config, tmp_path / "wide")
    save_model(load_model(tmp_path / "wide", dtype=dtype)[0], config, tmp_path / "again", fp8=True)
    first, again = (load_file(tmp_path / name / "model.safetensors") for name in ("fp8", "again"))
    assert first.keys() == again.keys()
    for name, tensor in first.items():
        if tensor.dtype == torch.float8_e4m3fn:
            assert torch.equal(tensor.view(torch.uint8), again[name].view(torch.uint8)), name
        else:
            torch.testing.assert_close(again[name].float(), tensor.float(), rtol=torch.finfo(dtype).eps, atol=0)


def test_streams_pair_in_any_order_and_leave_the_rest_alone(decoder: Decoder) -> None:
    stream = list(quantize_tensors(decoder.state_dict().items()))
    straight = dict(dequantize_tensors(stream, dtype=torch.bfloat16))
    turned = dict(dequantize_tensors(reversed(stream), dtype=torch.bfloat16))
    assert straight.keys() == turned.keys() == decoder.state_dict().keys()
    assert all(torch.equal(straight[name], turned[name]) for name in straight)
    assert straight["lm_head.weight"] is dict(stream)["lm_head.weight"]
    assert straight["model.layers.0.mlp.up_proj.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.3.self_attn.kv_a_proj_with_mqa.weight", True),
        ("model.layers.3.mlp.experts.17.gate_proj.weight", True),
        ("model.layers.3.mlp.shared_experts.down_proj.weight", True),
        ("model.layers.3.mlp.gate.weight", False),
        ("model.layers.61.eh_proj.weight", False),
        ("model.layers.61.shared_head.head.weight", False),
        ("model.layers.61.embed_tokens.weight", False),
        ("model.embed_tokens.weight", False),
        ("lm_head.weight", False),
    ],
)
def test_which_tensors_deepseek_publishes_in_fp8(name: str, expected: bool) -> None:
    assert is_quantized(name, (256, 128)) == expected
    assert not is_quantized("model.layers.3.input_layernorm.weight", (128,))


def test_half_a_pair_is_an_error(decoder: Decoder) -> None:
    stream = list(quantize_tensors(decoder.state_dict().items()))
    for missing in ("model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight_scale_inv"):
        with pytest.raises(CheckpointError, match="up_proj"):
            list(dequantize_tensors((name, t) for name, t in stream if name != missing))


def test_scales_that_do_not_fit_are_an_error() -> None:
    fp8 = torch.zeros(136, 200).to(torch.float8_e4m3fn)
    with pytest.raises(CheckpointError, match=r"\[136, 200\] with scales \[1, 2\]"):
        list(dequantize_tensors([("a.weight", fp8), ("a.weight_scale_inv", torch.ones(1, 2))]))


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_weights_that_are_not_finite_are_not_written(decoder: Decoder, tmp_path: Path, bad: float) -> None:
    with torch.no_grad():
        decoder.get_parameter("model.layers.1.self_attn.q_proj.weight")[0, 0] = bad
    with pytest.raises(CheckpointError, match=r"layers\.1\.self_attn\.q_proj\.weight has an infinity or NaN"):
        save_model(decoder, decoder.config, tmp_path, fp8=True)
    assert not (tmp_path / "model.safetensors").exists()


def test_a_folder_with_half_a_pair_is_refused_by_its_headers(decoder: Decoder, tmp_path: Path) -> None:
    write_published(decoder, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    scale = tensors.pop("model.layers.0.mlp.up_proj.weight_scale_inv")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="up_proj.weight_scale_inv is missing, the scales of an FP8 weight"):
        load_model(tmp_path)
    tensors["model.layers.0.mlp.up_proj.weight"] = tensors["model.layers.0.mlp.up_proj.weight"].float()
    tensors["model.layers.0.mlp.up_proj.weight_scale_inv"] = scale
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="up_proj.weight_scale_inv scales a weight that is not FP8"):
        load_model(tmp_path)
    del tensors["model.layers.0.mlp.up_proj.weight_scale_inv"]
    tensors["lm_head.weight"] = tensors["lm_head.weight"].to(torch.float8_e4m3fn)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="lm_head.weight in model.safetensors has type F8_E4M3"):
        load_model(tmp_path)


def test_only_the_published_quantisation_is_known() -> None:
    fields = {"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
              "num_attention_heads": 2}
    from_hugging_face({**fields, "quantization_config": {**PUBLISHED, "scale_fmt": "ue8m0"}})
    for name, value in (("quant_method", "awq"), ("weight_block_size", [64, 64]), ("activation_scheme", "static"),
                        ("fmt", "e5m2")):
        with pytest.raises(CheckpointError, match=f"quantization_config.{name} is"):
            from_hugging_face({**fields, "quantization_config": {**PUBLISHED, name: value}})


def test_experts_are_published_one_by_one_and_converted_either_way(tmp_path: Path) -> None:
    """save_model and ``convert_folder`` write the same bytes; what comes back is what they stand for."""
    config = ModelConfig(
        model_type="deepseek_v3", vocab_size=61, hidden_size=136, intermediate_size=140, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8,
        v_head_dim=8, n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2, moe_intermediate_size=130,
        first_k_dense_replace=1, num_nextn_predict_layers=1, tie_word_embeddings=False,
    )  # fmt: skip
    decoder = build_decoder(config, seed=1)
    save_model(decoder, config, tmp_path / "wide")
    save_model(decoder.bfloat16(), config, tmp_path / "saved", fp8=True)
    convert_folder(tmp_path / "wide", tmp_path / "fp8", dtype=E4M3, shard_bytes=200_000)
    assert json.loads((tmp_path / "fp8" / "config.json").read_text())["quantization_config"] == PUBLISHED
    held = {n: t for file in (tmp_path / "fp8").glob("*.safetensors") for n, t in load_file(file).items()}
    name = "model.layers.2.mlp.experts.3.down_proj.weight"
    assert held[name].dtype == E4M3 and held[f"{name}_scale_inv"].shape == (2, 2)
    assert held["model.layers.2.eh_proj.weight"].dtype == torch.bfloat16
    assert held.keys() == load_file(tmp_path / "saved" / "model.safetensors").keys()
    loaded, _ = load_model(tmp_path / "fp8")
    convert_folder(tmp_path / "fp8", tmp_path / "back", dtype=torch.bfloat16)
    assert "quantization_config" not in json.loads((tmp_path / "back" / "config.json").read_text())
    back, _ = load_model(tmp_path / "back", dtype=torch.bfloat16)
    for key, tensor in back.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[key].to(tensor.dtype)), key
        assert torch.allclose(tensor.float(), decoder.state_dict()[key].float(), rtol=0.07, atol=1e-3), key
