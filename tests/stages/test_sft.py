"""Supervised fine-tuning for long reasoning: presets, a longer context, what the loss is on, adapters, a teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from aha.config import override
from aha.errors import DataError, SettingError
from aha.model.config import ModelConfig
from aha.model.decoder import build_decoder
from aha.stages import sft
from aha.stages.context import Context
from aha.stages.models import Policy, load_policy, save_policy
from aha.stages.sft import Lora, Settings
from aha.stages.sft_presets import PRESETS
from aha.testing import byte_tokenizer, tiny_policy
from aha.util.files import read_json, read_jsonl, write_json_atomic

ROWS = [(f"compute {i} + 2", f"<think> {i} + 2 = {i + 2} . </think> <answer> {i + 2} </answer>") for i in range(8)]


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    save_policy(tiny_policy(), tmp_path / "base" / "model")
    (tmp_path / "data").mkdir()
    rows = [json.dumps({"question": question, "completion": completion}) for question, completion in ROWS]
    (tmp_path / "data" / "examples.jsonl").write_text("\n".join(rows) + "\n")
    return {"init": tmp_path / "base", "data": tmp_path / "data"}


def run(inputs: dict[str, Path], out: Path, **settings: Any) -> list[dict[str, Any]]:
    out.mkdir()
    sft.run(Settings(**{"epochs": 1, "row_length": 64, **settings}), inputs, Context(out, name="s", seed=1, run_seed=0))
    return read_jsonl(out / "metrics.jsonl")


def test_a_preset_overrules_nothing_that_says_the_same_otherwise() -> None:
    given = Settings(preset="open-r1", warmup=100, batch_tokens=32_768)
    assert (given.warmup, given.warmup_share, given.batch_tokens, given.batch) == (100, None, 32_768, None)
    assert Settings(preset="open-r1").warmup_share is not None and Settings(preset="open-r1").batch is not None


def test_a_preset_gives_what_is_not_set() -> None:
    s1 = Settings(preset="s1", lr=3e-5)
    assert (s1.epochs, s1.batch, s1.warmup_share, s1.weight_decay, s1.row_length) == (5, 16, 0.05, 1e-4, 32_768)
    assert s1.lr == 3e-5 and s1.final_ratio == 0.0
    other = override(s1, "preset", "open-r1")
    assert (other.epochs, other.max_grad_norm, other.rope_theta, other.lr) == (5, 0.2, 300_000.0, 3e-5)
    with pytest.raises(SettingError, match="no preset 'limos': did you mean 'limo'"):
        Settings(preset="limos")
    rates = [PRESETS[f"distill-{name}"].lr for name in ("qwen-1.5b", "qwen-7b", "qwen-14b", "qwen-32b", "llama-8b")]
    assert rates == [1e-4, 8e-5, 7e-5, 6e-5, 5e-5]
    assert all(row.source for row in PRESETS.values())


def test_updates_of_so_many_examples_and_the_last_rate_is_a_tenth(inputs: dict[str, Path], tmp_path: Path) -> None:
    rows = run(inputs, tmp_path / "a", batch=2, warmup_share=0.25, lr=1e-3)
    assert len(rows) == 4 and [row["lr"] for row in rows][:2] == pytest.approx([1e-3, 1e-3])
    assert rows[-1]["lr"] == pytest.approx(1e-4)


def test_prompts_are_learned_where_asked(inputs: dict[str, Path], tmp_path: Path) -> None:
    policy = load_policy(inputs["init"] / "model")
    examples = [policy.renderer.example(*row) for row in ROWS]
    plain, whole = (run(inputs, tmp_path / on, loss_on=on, batch=8)[0]["tokens"] for on in ("completion", "all"))
    assert plain == sum(sum(e.loss_mask) for e in examples)
    assert whole == sum(len(e.ids) - 1 for e in examples)  # nothing predicts the first token


def test_the_context_is_stretched_by_config(inputs: dict[str, Path], tmp_path: Path) -> None:
    run(inputs, tmp_path / "a", rope_theta=300_000.0, max_position_embeddings=1_024)
    config = read_json(tmp_path / "a" / "model" / "config.json")
    assert (config["rope_theta"], config["max_position_embeddings"]) == (300_000.0, 1_024)
    assert load_policy(tmp_path / "a" / "model").decoder.rotations.theta == 300_000.0
    long = {"question": "compute 2 + 2", "completion": " ".join(["2"] * 300)}
    (inputs["data"] / "examples.jsonl").write_text(json.dumps(long) + "\n")
    with pytest.raises(DataError, match="the model's max_position_embeddings is 256: raise max_position_embeddings"):
        run(inputs, tmp_path / "b", row_length=512)
    run(inputs, tmp_path / "c", row_length=512, max_position_embeddings=512)


def test_an_adapter_is_beside_the_merged_model(inputs: dict[str, Path], tmp_path: Path) -> None:
    lora = Lora(rank=2, alpha=4.0, targets=("q_proj", "o_proj"))
    run(inputs, tmp_path / "a", lora=lora, lr=1e-1, batch=2, checkpointing=True)
    base, tuned = (load_policy(folder / "model").decoder for folder in (inputs["init"], tmp_path / "a"))
    for (name, before), after in zip(base.named_parameters(), tuned.parameters(), strict=True):
        assert torch.equal(before, after) == (not name.endswith(("q_proj.weight", "o_proj.weight"))), name
    assert read_json(tmp_path / "a" / "adapter" / "adapter_config.json")["r"] == 2
    with pytest.raises(SettingError, match="an adapter is float32"):
        Settings(lora=lora, precision="bf16")


def test_a_teachers_distributions_are_learned(inputs: dict[str, Path], tmp_path: Path) -> None:
    save_policy(tiny_policy(seed=5), tmp_path / "teacher" / "model")
    rows = run({**inputs, "teacher": tmp_path / "teacher"}, tmp_path / "a", epochs=12, batch=8, lr=1e-2)
    assert rows[-1]["kl"] < 0.8 * rows[0]["kl"]
    save_policy(tiny_policy(tokenizer=byte_tokenizer()), tmp_path / "other" / "model")
    with pytest.raises(SettingError, match="the teacher's 258 tokens are not the student's"):
        run({**inputs, "teacher": tmp_path / "other"}, tmp_path / "b")
    config = read_json(tmp_path / "teacher" / "model" / "config.json") | {"max_position_embeddings": 8}
    write_json_atomic(tmp_path / "teacher" / "model" / "config.json", config)
    with pytest.raises(DataError, match="tokens, the teacher's max_position_embeddings is 8: leave it out"):
        run({**inputs, "teacher": tmp_path / "teacher"}, tmp_path / "c")


def test_a_text_longer_than_a_window_is_not_blamed_on_the_positions(inputs: dict[str, Path], tmp_path: Path) -> None:
    policy = load_policy(inputs["init"] / "model")
    config = ModelConfig(
        model_type="mistral", sliding_window=8, vocab_size=policy.config.vocab_size, hidden_size=16,
        intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    save_policy(Policy(build_decoder(config, seed=0), config, policy.renderer), tmp_path / "init" / "model")
    with pytest.raises(DataError, match="tokens, the model's sliding_window is 8: leave it out"):
        run({**inputs, "init": tmp_path / "init"}, tmp_path / "a")


def test_checkpointing_changes_no_weight(inputs: dict[str, Path], tmp_path: Path) -> None:
    for name, again in (("a", False), ("b", True)):
        run(inputs, tmp_path / name, checkpointing=again)
    one, other = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("a", "b"))
    assert one == other
