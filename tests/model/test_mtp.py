"""Modules of multi-token prediction against loops by hand, against transformers' own layer, and in model folders."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_layers import MtpLayer
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2DecoderLayer, DeepseekV2RMSNorm
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3DecoderLayer, DeepseekV3RMSNorm
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer, MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3RMSNorm

from aha.errors import CheckpointError
from aha.model.config import ModelConfig
from aha.model.config_file import to_hugging_face
from aha.model.count import count_parameters
from aha.model.decoder import Decoder, build_decoder, build_empty_decoder
from aha.model.folder import load_model, save_model

IDS = torch.tensor([[5, 6, 7, 60, 0, 1, 33], [9, 8, 7, 6, 5, 4, 3]])
NEXT = torch.tensor([[6, 7, 60, 0, 1, 33, 2], [8, 7, 6, 5, 4, 3, 50]])


@pytest.fixture
def ahead(config: ModelConfig) -> Decoder:
    """A perturbed decoder of every kind with two modules."""
    decoder = build_decoder(config.model_copy(update={"num_nextn_predict_layers": 2}), seed=1)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in (*decoder.parameters(), *decoder.buffers()):
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.15)
    return decoder


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.pow(2).mean() + eps).sqrt() * weight


def test_logits_by_hand() -> None:
    """One token and one head at a time, in float64, from the published names alone."""
    config = ModelConfig(
        vocab_size=11, hidden_size=8, intermediate_size=6, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, num_nextn_predict_layers=2, rope_theta=100.0,
    )  # fmt: skip
    decoder = build_decoder(config, seed=0, dtype=torch.float64)
    weights = {name: weight.detach() for name, weight in decoder.named_parameters()}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    tokens, eps = [3, 1, 4, 1, 5, 9], config.rms_norm_eps

    def turn(x: Tensor, place: int) -> Tensor:
        turned = torch.empty_like(x)
        for i in range(2):
            angle = place / 100.0 ** (i / 2)
            turned[i] = x[i] * math.cos(angle) - x[i + 2] * math.sin(angle)
            turned[i + 2] = x[i + 2] * math.cos(angle) + x[i] * math.sin(angle)
        return turned

    def layer(rows: list[Tensor], at: str) -> list[Tensor]:
        normed = [rms(x, weights[at + "input_layernorm.weight"], eps) for x in rows]
        queries, keys, values = ([weights[f"{at}self_attn.{n}_proj.weight"] @ x for x in normed] for n in "qkv")
        out = []
        for i, x in enumerate(rows):
            read = []
            for head in (0, 1):
                q = turn(queries[i][4 * head : 4 * head + 4], i)
                scores = torch.stack([q @ turn(keys[j], j) / 2 for j in range(i + 1)]).softmax(0)
                read.append(sum(scores[j] * values[j] for j in range(i + 1)))
            x = x + weights[at + "self_attn.o_proj.weight"] @ torch.cat(read)
            y = rms(x, weights[at + "post_attention_layernorm.weight"], eps)
            gate, up = (weights[f"{at}mlp.{n}_proj.weight"] @ y for n in ("gate", "up"))
            out.append(x + weights[at + "mlp.down_proj.weight"] @ (gate * gate.sigmoid() * up))
        return out

    table = weights["model.embed_tokens.weight"]
    states = [rms(x, weights["model.norm.weight"], eps) for x in layer([table[t] for t in tokens], "model.layers.0.")]
    expected = [states]
    for k in (1, 2):
        at = f"model.layers.{k}."
        rows = []
        for i in range(len(tokens) - k):
            embedding = rms(table[tokens[i + k]], weights[at + "enorm.weight"], eps)
            hidden = rms(states[i], weights[at + "hnorm.weight"], eps)
            rows.append(weights[at + "eh_proj.weight"] @ torch.cat((embedding, hidden)))
        states = [rms(x, weights[at + "shared_head.norm.weight"], eps) for x in layer(rows, at)]
        expected.append(states)
    with torch.no_grad():
        found = decoder.forward_ahead(torch.tensor([tokens[:-1]]), torch.tensor([tokens[1:]]))
    for k, (state, wanted) in enumerate(zip(found, expected, strict=True)):
        places = len(tokens) - max(1, k)
        logits = torch.stack(wanted[:places]) @ table.T
        assert torch.allclose(decoder.logits(state)[0, :places], logits, atol=1e-10), f"module {k}"


def test_states_equal_transformers_layer(ahead: Decoder) -> None:
    config, L = ahead.config, ahead.config.num_hidden_layers
    classes: dict[str, tuple[Any, Any]] = {
        "llama": (LlamaDecoderLayer, LlamaRMSNorm),
        "qwen2": (Qwen2DecoderLayer, Qwen2RMSNorm),
        "qwen3": (Qwen3DecoderLayer, Qwen3RMSNorm),
        "mistral": (MistralDecoderLayer, MistralRMSNorm),
        "deepseek_v2": (DeepseekV2DecoderLayer, DeepseekV2RMSNorm),
        "deepseek_v3": (DeepseekV3DecoderLayer, DeepseekV3RMSNorm),
    }
    with torch.no_grad():
        found = ahead.forward_ahead(IDS, NEXT)
        assert torch.equal(found[0], ahead(IDS))
        hidden, following = found[0], NEXT
        theirs = _transformers_config(config)
        cos, signed = ahead.rotations.first(IDS.shape[1], dtype=torch.float32, device=IDS.device)
        half = config.head_dim // 2
        rotation: Any = cos[None, :, 0], torch.cat((signed[None, :, 0, half:],) * 2, -1)
        if config.model_type == "deepseek_v2":
            rotation = torch.complex(rotation[0][..., half:].contiguous(), rotation[1][..., half:].contiguous())
        mask = torch.full((1, 1, 7, 7), -torch.inf).triu(1)
        for k in (1, 2):
            index = L + k - 1 if config.latent_attention else 0
            layer = MtpLayer(theirs, *classes[config.model_type], layer_idx=index)
            own = ahead.model.layers[L + k - 1].state_dict()
            own = {("" if re.match("enorm|hnorm|eh_proj", n) else "mtp_block.") + n: w for n, w in own.items()}
            own["post_norm.weight"] = own.pop("mtp_block.shared_head.norm.weight")
            report = layer.load_state_dict(own, strict=False)
            missing = [name for name in report.missing_keys if layer.get_parameter(name).numel()]
            assert not missing and not report.unexpected_keys
            hidden = layer(ahead.model.embed_tokens(following), hidden, rotation, mask, None, None)
            following = following.roll(-1, 1)
            places = IDS.shape[1] - k + 1
            assert torch.allclose(found[k][:, :places], hidden[:, :places], atol=1e-5), f"module {k}"


def _transformers_config(config: ModelConfig) -> Any:
    fields = to_hugging_face(config, dtype=torch.float32)
    theirs = AutoConfig.for_model(fields.pop("model_type"), **fields)
    theirs._attn_implementation = theirs._experts_implementation = "eager"
    return theirs


def test_packed_documents_equal_separate_ones(ahead: Decoder) -> None:
    parts = [(0, 3), (3, 7)]
    segments = torch.tensor([[1] * 3 + [2] * 4] * 2)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]] * 2)
    with torch.no_grad():
        packed = ahead.forward_ahead(IDS, NEXT, positions, segments)
        for start, end in parts:
            alone = ahead.forward_ahead(IDS[:, start:end], NEXT[:, start:end])
            for k in (0, 1, 2):
                places = end - start - max(0, k - 1)
                got, wanted = packed[k][:, start : start + places], alone[k][:, :places]
                assert torch.allclose(got, wanted, atol=1e-5), k


def test_the_body_is_the_same_with_and_without(config: ModelConfig) -> None:
    plain = build_decoder(config, seed=3)
    with_modules = build_decoder(config.model_copy(update={"num_nextn_predict_layers": 1}), seed=3)
    if config.tie_word_embeddings:  # an untied head is drawn after the modules
        assert torch.equal(plain(IDS), with_modules(IDS))
    weights = (*with_modules.parameters(), *with_modules.buffers())
    assert count_parameters(with_modules.config) == sum(weight.numel() for weight in weights)


def test_names_are_the_published_ones() -> None:
    config = ModelConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=61, num_attention_heads=2,
                         num_key_value_heads=1, num_nextn_predict_layers=1)
    names = [name for name in build_empty_decoder(config, device="meta").state_dict() if ".layers.61." in name]
    own = {"enorm", "hnorm", "eh_proj", "shared_head.norm"}
    layer = {"input_layernorm", "post_attention_layernorm", *(f"self_attn.{n}_proj" for n in "qkvo"),
             *(f"mlp.{n}_proj" for n in ("gate", "up", "down"))}
    assert {re.sub(r"model\.layers\.61\.(.*)\.weight", r"\1", name) for name in names} == own | layer


def test_folder_round_trip_and_transformers_loads_the_body(ahead: Decoder, tmp_path: Path) -> None:
    save_model(ahead, ahead.config, tmp_path)
    loaded, config = load_model(tmp_path)
    assert config == ahead.config
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in ahead.state_dict().items())
    with torch.no_grad():
        found = loaded.forward_ahead(IDS, NEXT)
        assert all(torch.equal(a, b) for a, b in zip(found, ahead.forward_ahead(IDS, NEXT), strict=True))

        model, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
        modules = tuple(f"model.layers.{ahead.config.num_hidden_layers + k}." for k in (0, 1))
        missing = {name for name in report["missing_keys"] if config.n_shared_experts or "shared" not in name}
        assert not missing and not report["mismatched_keys"]
        assert report["unexpected_keys"] and all(name.startswith(modules) for name in report["unexpected_keys"])
        assert torch.allclose(model(IDS).logits, ahead.logits(ahead(IDS)), atol=1e-5)
        assert model.config.num_nextn_predict_layers == 2

        model.save_pretrained(tmp_path / "again")  # without the modules, though its config tells of them
        body, config = load_model(tmp_path / "again")
        assert config.num_nextn_predict_layers == 0
        assert torch.equal(body(IDS), ahead(IDS))


def test_a_model_without_modules_says_nothing_of_them(tiny_decoder: Decoder, tmp_path: Path) -> None:
    save_model(tiny_decoder, tiny_decoder.config, tmp_path)
    assert "num_nextn_predict_layers" not in json.loads((tmp_path / "config.json").read_text())


def test_published_copies_of_embedding_and_head_must_be_copies(ahead: Decoder, tmp_path: Path) -> None:
    save_model(ahead, ahead.config, tmp_path)
    file, at = tmp_path / "model.safetensors", f"model.layers.{ahead.config.num_hidden_layers}."
    tensors = load_file(file)
    copies = {"embed_tokens.weight": ahead.model.embed_tokens.weight, "shared_head.head.weight": ahead.head_weight}
    tensors |= {at + name: weight.detach().clone() for name, weight in copies.items()}
    save_file(tensors, file)
    loaded, _ = load_model(tmp_path)
    assert torch.equal(loaded(IDS), ahead(IDS))
    for name in copies:
        save_file({**tensors, at + name: tensors[at + name] + 1}, file)
        with pytest.raises(CheckpointError, match=f"{re.escape(name)} differs from .*share it with the body"):
            load_model(tmp_path)
    some = {name: weight for name, weight in tensors.items() if name != at + "eh_proj.weight"}
    save_file(some, file)
    with pytest.raises(CheckpointError, match=r"eh_proj.weight \[32, 64\] is missing"):
        load_model(tmp_path)
