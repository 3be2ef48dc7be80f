"""An adapter begins as nothing, merges to what it computed, and is loaded by peft."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from aha.errors import SettingError
from aha.model.config import ModelConfig
from aha.model.decoder import Decoder, build_decoder
from aha.model.folder import save_model
from aha.model.lora import LoraLinear, add_lora, merge_lora, save_adapter

CONFIG = ModelConfig(
    model_type="qwen2",
    vocab_size=32,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=64,
)
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def adapted(*, targets: tuple[str, ...] = ("q_proj", "down_proj")) -> Decoder:
    decoder = build_decoder(CONFIG, seed=0)
    add_lora(decoder, rank=3, alpha=6.0, targets=targets, seed=1)
    return decoder


def stir(decoder: Decoder) -> None:
    generator = torch.Generator().manual_seed(2)
    for parameter in decoder.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)


def test_the_map_by_hand() -> None:
    linear = nn.Linear(2, 1, bias=True)
    linear.weight.data, linear.bias.data = torch.tensor([[1.0, 2.0]]), torch.tensor([0.5])
    lora = LoraLinear(linear, rank=1, alpha=3.0, generator=torch.Generator())
    lora.lora_A.data, lora.lora_B.data = torch.tensor([[1.0, -1.0]]), torch.tensor([[2.0]])
    # 1*5 + 2*7 + 0.5 = 19.5; (5 - 7) * 2 * 3 / 1 = -12
    assert lora(torch.tensor([5.0, 7.0])).item() == 7.5


def test_a_fresh_adapter_is_as_wide_as_pefts() -> None:
    lora = LoraLinear(nn.Linear(100, 4), rank=50, alpha=1.0, generator=torch.Generator().manual_seed(0))
    assert 0.099 < lora.lora_A.abs().max() <= 0.1 and not lora.lora_B.any()


def test_it_begins_as_nothing_and_trains_alone() -> None:
    plain, decoder = build_decoder(CONFIG, seed=0), adapted()
    torch.testing.assert_close(plain(IDS), decoder(IDS), rtol=0, atol=1e-6)
    trained = {name for name, parameter in decoder.named_parameters() if parameter.requires_grad}
    maps = ("self_attn.q_proj", "mlp.down_proj")
    assert trained == {f"model.layers.{i}.{m}.lora_{ab}" for i in range(2) for m in maps for ab in "AB"}
    with pytest.raises(SettingError, match="'q_prj'.*did you mean 'q_proj'"):
        adapted(targets=("q_prj",))


def test_a_name_that_routed_experts_have_too_is_refused() -> None:
    """peft would take such an adapter for the experts' and drop it."""
    experts = ModelConfig(
        model_type="deepseek_v3", vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, kv_lora_rank=8, qk_nope_head_dim=8, qk_rope_head_dim=8,
        v_head_dim=8, n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2, moe_intermediate_size=8,
        first_k_dense_replace=1, n_group=1, topk_group=1,
    )  # fmt: skip
    with pytest.raises(SettingError, match=r"\['down_proj'\] with routed experts, .* name some of .*'o_proj'"):
        add_lora(build_decoder(experts, seed=0), rank=2, alpha=1.0, targets=("o_proj", "down_proj"))
    add_lora(build_decoder(experts, seed=0), rank=2, alpha=1.0, targets=("o_proj", "kv_b_proj"))


def test_merged_it_computes_the_same_under_the_old_names() -> None:
    decoder = adapted()
    stir(decoder)
    before = decoder(IDS)
    merge_lora(decoder)
    torch.testing.assert_close(decoder(IDS), before)
    assert decoder.state_dict().keys() == build_decoder(CONFIG, seed=0).state_dict().keys()
    assert (before - build_decoder(CONFIG, seed=0)(IDS)).abs().max() > 0.01


def test_peft_loads_it(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    save_model(build_decoder(CONFIG, seed=0), CONFIG, tmp_path / "base")
    targets = ("q_proj", "v_proj", "up_proj")
    decoder = adapted(targets=targets)
    stir(decoder)
    save_adapter(decoder, tmp_path / "adapter", base=str(tmp_path / "base"), rank=3, alpha=6.0, targets=targets)
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")(IDS).logits
        torch.testing.assert_close(theirs, decoder.logits(decoder(IDS)), atol=1e-5, rtol=1e-5)
