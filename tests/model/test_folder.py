from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from aha.errors import CheckpointError, DataError, SettingError
from aha.model import folder
from aha.model.attention.plan import Branches
from aha.model.config import ModelConfig
from aha.model.config_file import from_hugging_face, load_config
from aha.model.decoder import Decoder, build_decoder
from aha.model.folder import convert_folder, load_model, save_model
from aha.model.rope import yarn_attention_factor

IDS = torch.tensor([[5, 6, 7, 60, 0, 1], [9, 8, 7, 6, 5, 4]])


def edit_config(path: Path, **changes: Any) -> None:
    fields = json.loads((path / "config.json").read_text())
    fields.update(changes)
    (path / "config.json").write_text(json.dumps({name: value for name, value in fields.items() if value != "DROP"}))


def edit_weights(path: Path, **changes: Tensor | None) -> None:
    tensors = load_file(path / "model.safetensors")
    tensors.update({name.replace("__", "."): value for name, value in changes.items() if value is not None})
    for name, value in changes.items():
        if value is None:
            del tensors[name.replace("__", ".")]
    save_file(tensors, path / "model.safetensors")


def test_transformers_loads_what_we_write(decoder: Decoder, tmp_path: Path) -> None:
    save_model(decoder, decoder.config, tmp_path)
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    missing = {name for name in report["missing_keys"] if decoder.config.n_shared_experts or "shared" not in name}
    assert not missing and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert model.dtype == torch.float32
    with torch.no_grad():
        assert torch.allclose(model(IDS).logits, decoder.logits(decoder(IDS)), atol=1e-5)
    for name in ("bos_token_id", "eos_token_id", "max_position_embeddings"):
        assert getattr(model.config, name) == getattr(decoder.config, name)


@pytest.mark.parametrize("shard_size", ["50GB", "10KB"])
def test_we_load_what_transformers_writes(
    config: ModelConfig, build_reference: Callable[[ModelConfig], Any], tmp_path: Path, shard_size: str
) -> None:
    reference = build_reference(config)
    reference.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard_size == "10KB")
    decoder, loaded = load_model(tmp_path)
    assert loaded == config
    with torch.no_grad():
        assert torch.allclose(decoder.logits(decoder(IDS)), reference(IDS).logits, atol=1e-5)


def test_round_trip_is_exact(decoder: Decoder, tmp_path: Path) -> None:
    save_model(decoder, decoder.config, tmp_path)
    loaded, config = load_model(tmp_path)
    assert config == decoder.config
    assert (loaded.head_weight is loaded.model.embed_tokens.weight) == config.tie_word_embeddings
    expected = decoder.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())


def test_bfloat16_round_trip(tiny_decoder: Decoder, tmp_path: Path) -> None:
    tiny_decoder.to(torch.bfloat16)
    save_model(tiny_decoder, tiny_decoder.config, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    wide, _ = load_model(tmp_path)
    narrow, _ = load_model(tmp_path, dtype=torch.bfloat16)
    assert torch.equal(wide.head_weight, tiny_decoder.head_weight.float())
    assert torch.equal(narrow.head_weight, tiny_decoder.head_weight)


def test_loaded_weights_do_not_hang_on_the_file(tiny_decoder: Decoder, tmp_path: Path) -> None:
    save_model(tiny_decoder, tiny_decoder.config, tmp_path)
    loaded, _ = load_model(tmp_path)
    before = loaded.head_weight.detach().clone()
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"\0" * weights.stat().st_size)
    assert torch.equal(loaded.head_weight, before)


def test_saving_replaces_shards_and_is_readable_by_others(
    tiny_config: ModelConfig, build_reference: Callable[[ModelConfig], Any], tmp_path: Path
) -> None:
    build_reference(tiny_config).save_pretrained(tmp_path, max_shard_size="10KB")
    decoder = build_decoder(tiny_config, seed=9)
    save_model(decoder, tiny_config, tmp_path)
    assert torch.equal(load_model(tmp_path)[0].head_weight, decoder.head_weight)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("config.json", "model.safetensors")]
    assert modes[0] == modes[1]
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("fields", [
    {"rope_theta": 5e5},
    {"rope_theta": 5e5, "rope_scaling": None},
    {"rope_theta": 5e5, "rope_scaling": {"type": "default"}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    {"rope_parameters": {"rope_theta": 5e5}, "rope_theta": 1e4},
])
def test_every_spelling_of_the_rotary_base(fields: dict[str, Any]) -> None:
    base = {"model_type": "llama", "vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2}
    assert from_hugging_face({**base, **fields}).rope_theta == 5e5
    left_out = from_hugging_face(base)
    assert (left_out.rope_theta, left_out.num_key_value_heads, left_out.tie_word_embeddings) == (1e4, 2, False)
    assert (left_out.bos_token_id, left_out.eos_token_id) == (1, 2)


def test_the_scaling_that_deepseek_published_for_qwen3_leaves_scores_as_they_are() -> None:
    base = {"model_type": "llama", "vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2, "max_position_embeddings": 131072}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    published = {**yarn, "attn_factor": 0.8782488562869419, "finetuned": True}
    scaling = from_hugging_face({**base, "rope_scaling": published}).rope_scaling
    assert scaling is not None and yarn_attention_factor(scaling) == pytest.approx(1.0, abs=1e-12)
    del published["attn_factor"]
    assert from_hugging_face({**base, "rope_scaling": published}) == from_hugging_face({**base, "rope_scaling": yarn})


@pytest.mark.parametrize(("changes", "said"), [
    ({"model_type": "qwen3_moe"}, "'qwen3_moe' is not supported: did you mean 'qwen3'"),
    ({"model_type": "DROP"}, "model_type None"),
    ({"rope_parameters": {"rope_type": "longrope", "factor": 8.0}}, "'longrope' rotary scaling"),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic' rotary scaling"),
    ({"rope_scaling": {"type": "llama3", "factor": 2.0}}, "llama3 rotary scaling needs low_freq_factor"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0, "beta_fast": 1}}, "linear .* does not use beta_fast"),
    ({"rope_scaling": {"type": "yarn", "faktor": 2.0}}, "did you mean 'factor'"),
    ({"rope_scaling": {"type": "yarn", "original_max_position_embeddings": 0}}, "has no factor, and none follows"),
    ({"rope_scaling": {"type": "yarn", "original_max_position_embeddings": "4096"}}, "has no factor, and none"),
    ({"rope_parameters": {"rope_theta": 1e4, "factor": 2.0}}, "'factor'"),
    ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ({"mlp_bias": True}, "mlp_bias is True"),
    ({"use_sliding_window": True}, "use_sliding_window is True"),
    ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
    ({"vocab_size": "DROP"}, "vocab_size"),
    ({"num_key_value_heads": 3}, "multiple of num_key_value_heads 3"),
])
def test_configs_that_would_compute_something_else_are_refused(
    tiny_decoder: Decoder, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    save_model(tiny_decoder, tiny_decoder.config, tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_config(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "config.json"))


@pytest.mark.parametrize(("changes", "said"), [
    ({"model__norm__weight": None}, r"model.norm.weight \[32\] is missing"),
    ({"model__norm__weight": torch.ones(31)}, r"model.norm.weight in .* has shape \[31\], the config says \[32\]"),
    ({"model__norm__weight": torch.ones(32, dtype=torch.int8)}, "model.norm.weight in .* has type I8"),
    ({"model__layers__2__mlp__up_proj__weight": torch.ones(48, 32)}, "layers.2.mlp.up_proj.weight .* has no place"),
])
def test_weights_that_do_not_fit_are_named_before_memory_is_taken(
    tiny_decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Tensor | None], said: str
) -> None:
    save_model(tiny_decoder, tiny_decoder.config, tmp_path)
    edit_weights(tmp_path, **changes)

    def build_on_meta_only(config: ModelConfig, *, device: str = "cpu", **others: Any) -> Decoder:
        assert device == "meta", "memory was taken before the headers were checked"
        return build_empty(config, device=device, **others)

    build_empty = folder.build_empty_decoder
    monkeypatch.setattr(folder, "build_empty_decoder", build_on_meta_only)
    with pytest.raises(CheckpointError, match=said):
        load_model(tmp_path)


def test_old_exports_with_a_rotary_constant_load(tiny_decoder: Decoder, tmp_path: Path) -> None:
    save_model(tiny_decoder, tiny_decoder.config, tmp_path)
    edit_weights(tmp_path, model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(4))
    assert torch.equal(load_model(tmp_path)[0].head_weight, tiny_decoder.head_weight)


def test_a_tied_head_that_is_saved_too_must_be_the_embedding(tiny_decoder: Decoder, tmp_path: Path) -> None:
    save_model(tiny_decoder, tiny_decoder.config, tmp_path)
    edit_weights(tmp_path, lm_head__weight=tiny_decoder.head_weight.detach().clone())
    load_model(tmp_path)
    edit_weights(tmp_path, lm_head__weight=tiny_decoder.head_weight.detach() + 1)
    with pytest.raises(CheckpointError, match="lm_head.weight differs from model.embed_tokens.weight"):
        load_model(tmp_path)
    edit_config(tmp_path, tie_word_embeddings=False)
    decoder, _ = load_model(tmp_path)
    assert torch.equal(decoder.head_weight, decoder.model.embed_tokens.weight + 1)


def test_folders_without_usable_files(tiny_decoder: Decoder, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no config.json"):
        load_model(tmp_path / "nowhere")
    save_model(tiny_decoder, tiny_decoder.config, tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_model(tmp_path)
    weights.unlink()
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(CheckpointError, match="found pytorch_model.bin: convert it"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"):
        load_model(tmp_path)


@pytest.mark.parametrize(("change", "said"), [
    (lambda index: index["weight_map"].update({"model.norm.weight": "gone.safetensors"}), "shard gone.* is missing"),
    (lambda index: index["weight_map"].update({"model.norm.weight": "../a.safetensors"}), "not a file of this folder"),
    (lambda index: index["weight_map"].pop("model.norm.weight"), r"model.norm.weight \[32\] is missing"),
    (lambda index: index.pop("weight_map"), "no weight_map"),
])
def test_bad_indexes(
    tiny_config: ModelConfig, build_reference: Callable[[ModelConfig], Any], tmp_path: Path,
    change: Callable[[dict[str, Any]], Any], said: str,
) -> None:
    build_reference(tiny_config).save_pretrained(tmp_path, max_shard_size="10KB")
    file = tmp_path / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    change(index)
    file.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=said):
        load_model(tmp_path)


def test_index_that_names_the_wrong_shard(
    tiny_config: ModelConfig, build_reference: Callable[[ModelConfig], Any], tmp_path: Path
) -> None:
    build_reference(tiny_config).save_pretrained(tmp_path, max_shard_size="10KB")
    file = tmp_path / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    shards = set(index["weight_map"].values())
    right = index["weight_map"]["model.norm.weight"]
    index["weight_map"]["model.norm.weight"] = min(shards - {right})
    file.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="model.norm.weight is not in .*, where the index says"):
        load_model(tmp_path)


def test_shards_are_written_read_and_replaced(config: ModelConfig, decoder: Decoder, tmp_path: Path) -> None:
    save_model(decoder, config, tmp_path, shard_bytes=4_000)
    shards = sorted(file.name for file in tmp_path.glob("*.safetensors"))
    assert len(shards) > 3 and shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    held = {name: file.name for file in tmp_path.glob("*.safetensors") for name in load_file(file)}
    assert index["weight_map"] == held and index["metadata"]["total_size"] == sum(
        tensor.nbytes for file in tmp_path.glob("*.safetensors") for tensor in load_file(file).values()
    )
    loaded, _ = load_model(tmp_path)
    expected = decoder.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    if config.model_type == "deepseek_v3":  # transformers reads shards of experts, too
        with torch.no_grad():
            theirs = AutoModelForCausalLM.from_pretrained(tmp_path)(IDS).logits
            assert torch.allclose(theirs, decoder.logits(decoder(IDS)), atol=1e-5)
    save_model(decoder, config, tmp_path, shard_bytes=20_000)
    assert len(list(tmp_path.glob("*.safetensors"))) < len(shards)
    assert load_model(tmp_path)[1] == config


def test_experts_have_their_published_names_on_disk(tmp_path: Path, build_kind: Callable[[str], Decoder]) -> None:
    decoder = build_kind("v3")
    save_model(decoder, decoder.config, tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    experts = decoder.model.layers[1].mlp.experts
    assert torch.equal(held["model.layers.1.mlp.experts.3.gate_proj.weight"], experts.gate_up_proj[3, :20])
    assert torch.equal(held["model.layers.1.mlp.experts.3.up_proj.weight"], experts.gate_up_proj[3, 20:])
    assert torch.equal(held["model.layers.1.mlp.experts.3.down_proj.weight"], experts.down_proj[3])
    decoder.to(torch.bfloat16)
    save_model(decoder, decoder.config, tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for name, tensor in held.items() if "e_score" in name} == {torch.float32}
    assert {tensor.dtype for name, tensor in held.items() if "e_score" not in name} == {torch.bfloat16}
    loaded = load_model(tmp_path, dtype=torch.bfloat16)[0]
    bias = "model.layers.1.mlp.gate.e_score_correction_bias"
    assert torch.equal(loaded.state_dict()[bias], decoder.state_dict()[bias])


def test_converting_keeps_modules_ahead_their_copies_and_unknown_fields(
    tmp_path: Path, build_kind: Callable[[str], Decoder]
) -> None:
    config = build_kind("v3").config.model_copy(update={"num_nextn_predict_layers": 1})
    decoder = build_decoder(config, seed=1)
    save_model(decoder, config, tmp_path / "src")
    copy = {"model.layers.2.embed_tokens.weight": decoder.model.embed_tokens.weight.detach().clone()}
    edit_weights(tmp_path / "src", **{name.replace(".", "__"): value for name, value in copy.items()})
    edit_config(tmp_path / "src", some_field="kept")
    convert_folder(tmp_path / "src", tmp_path / "dst", dtype=torch.bfloat16, shard_bytes=10_000)
    fields = json.loads((tmp_path / "dst" / "config.json").read_text())
    assert fields["some_field"] == "kept" and fields["dtype"] == "bfloat16" and fields["num_nextn_predict_layers"] == 1
    shards = (tmp_path / "dst").glob("*.safetensors")
    held = {name: tensor for file in shards for name, tensor in load_file(file).items()}
    before = load_file(tmp_path / "src" / "model.safetensors")
    assert held.keys() == before.keys() > copy.keys()
    for name, tensor in held.items():
        assert torch.equal(tensor, before[name].to(torch.float32 if "e_score" in name else torch.bfloat16)), name
    experts = load_model(tmp_path / "dst")[0].model.layers[2].mlp.experts.down_proj
    assert torch.equal(experts, decoder.model.layers[2].mlp.experts.down_proj.bfloat16().float())
    edit_config(tmp_path / "src", num_nextn_predict_layers=0)
    with pytest.raises(CheckpointError, match="model.layers.2.* has no place"):
        load_model(tmp_path / "src")


def test_a_window_is_exact_up_to_its_length_and_refused_beyond(build_kind: Callable[[str], Decoder]) -> None:
    decoder = build_kind("mistral-window")
    assert decoder.config.longest == 96
    decoder(torch.zeros(1, 96, dtype=torch.long))
    with pytest.raises(DataError, match="97 tokens.* sliding_window is 96"):
        decoder(torch.zeros(1, 97, dtype=torch.long))


def test_a_window_is_of_each_document_and_of_each_prompt_with_what_continues_it(
    build_kind: Callable[[str], Decoder],
) -> None:
    decoder = build_kind("mistral-window")
    ids = torch.zeros(1, 200, dtype=torch.long)

    def packed(*lengths: int) -> None:
        segments = torch.arange(1, len(lengths) + 1).repeat_interleave(torch.tensor(lengths))
        decoder(ids[:, : sum(lengths)], segments_BT=segments[None])

    def branched(prompt: int, *own: int) -> None:
        decoder(ids[:, : prompt + sum(own)], branches=Branches((prompt,), own, (0,) * len(own)))

    packed(96, 90)
    decoder(ids[:, :100], segments_BT=torch.tensor([1] * 2 + [0] * 98)[None])  # padding is no sequence
    branched(60, 36, 36, 0)
    for run in (lambda: packed(90, 97), lambda: branched(60, 3, 37), lambda: branched(97, 0)):
        with pytest.raises(DataError, match="a sequence of 97 tokens, .* sliding_window is 96"):
            run()


def test_a_type_nobody_computes_with_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="float8_e4m3fn"):
        load_model(tmp_path / "nowhere", dtype=torch.float8_e4m3fn)


@pytest.mark.parametrize(("kind", "changes", "said"), [
    ("v3", {"n_routed_experts": 9}, "9 is not a multiple of n_group 4"),
    ("v3", {"num_experts_per_tok": 5}, r"num_experts_per_tok 5 is not in 1 .. 4"),
    ("v3", {"topk_group": 5}, "topk_group 5 is more than n_group 4"),
    ("v3", {"n_group": 8}, "8 groups of 1 expert"),
    ("v3", {"kv_lora_rank": 0}, "needs kv_lora_rank"),
    ("v3", {"qk_rope_head_dim": 7}, "qk_rope_head_dim 7 is odd"),
    ("v3", {"num_key_value_heads": 2}, "num_key_value_heads 2 is not num_attention_heads 4"),
    ("v3", {"scoring_func": "softmax"}, "scoring_func is 'softmax'"),
    ("v3", {"moe_layer_freq": 2}, "moe_layer_freq is 2"),
    ("v3", {"attention_bias": True}, "attention_bias is a choice of llama alone"),
    ("v2", {"topk_method": "noaux_tc"}, "topk_method is 'noaux_tc'"),
    ("v2", {"norm_topk_prob": True}, "norm_topk_prob is true"),
])
def test_impossible_deepseek_configs_are_refused(
    build_kind: Callable[[str], Decoder], tmp_path: Path, kind: str, changes: dict[str, Any], said: str
) -> None:
    decoder = build_kind(kind)
    save_model(decoder, decoder.config, tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=said):
        load_config(tmp_path)
