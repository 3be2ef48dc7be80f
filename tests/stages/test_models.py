"""A model folder holds weights, tokenizer and template as one; a folder that does not fit together is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aha.errors import CheckpointError, SettingError
from aha.stages import foundation
from aha.stages.context import Context
from aha.stages.models import TEMPLATE_FILE, load_policy, save_policy
from aha.testing import byte_tokenizer, tiny_policy
from aha.util.files import read_json, write_json_atomic


def test_a_policy_survives_its_folder(tmp_path: Path) -> None:
    policy = tiny_policy(seed=3)
    save_policy(policy, tmp_path)
    again = load_policy(tmp_path)
    assert again.renderer.template == policy.renderer.template
    assert again.config == policy.config
    for ours, theirs in zip(policy.decoder.parameters(), again.decoder.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert again.renderer.prompt("compute 2 + 3") == policy.renderer.prompt("compute 2 + 3")


def test_several_end_tokens_survive_two_folders(tmp_path: Path) -> None:
    save_policy(tiny_policy(), tmp_path / "a")
    write_json_atomic(tmp_path / "a" / "generation_config.json", {"eos_token_id": [1, 7]})
    save_policy(load_policy(tmp_path / "a"), tmp_path / "b")
    assert load_policy(tmp_path / "b").tokenizer.end_token_ids == (1, 7)


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    save_policy(tiny_policy(tokenizer=byte_tokenizer()), tmp_path)
    tiny_policy().tokenizer.save(tmp_path)
    with pytest.raises(CheckpointError, match="do not belong together"):
        load_policy(tmp_path)


def test_a_folder_without_template_needs_one(tmp_path: Path) -> None:
    save_policy(tiny_policy(), tmp_path)
    (tmp_path / TEMPLATE_FILE).unlink()
    with pytest.raises(CheckpointError, match="template"):
        load_policy(tmp_path)
    assert load_policy(tmp_path, template="Q {question} A").renderer.template == "Q {question} A"


def test_a_foundation_is_copied_with_its_template(tmp_path: Path) -> None:
    save_policy(tiny_policy(), tmp_path / "theirs")
    (tmp_path / "theirs" / TEMPLATE_FILE).unlink()
    settings = foundation.Settings(folder=tmp_path / "theirs", template="Q : {question} A :")
    result = foundation.run(settings, {}, Context(tmp_path / "mine", name="mine", seed=0, run_seed=0))
    policy = load_policy(tmp_path / "mine" / "model")
    assert policy.renderer.template == "Q : {question} A :"
    assert result.metrics["parameters"] == sum(p.numel() for p in policy.decoder.parameters())
    assert not (tmp_path / "theirs" / TEMPLATE_FILE).exists()
    assert read_json(tmp_path / "mine" / "model" / "config.json")["model_type"] == "qwen2"


def test_a_stage_of_another_run_brings_its_own_template(tmp_path: Path) -> None:
    save_policy(tiny_policy(), tmp_path / "theirs" / "model")
    foundation.run(
        foundation.Settings(folder=tmp_path / "theirs"), {}, Context(tmp_path / "mine", name="mine", seed=0, run_seed=0)
    )
    assert load_policy(tmp_path / "mine" / "model").renderer.template == tiny_policy().renderer.template


def test_a_foundation_that_cannot_be_used_is_named_before_it_is_copied(tmp_path: Path) -> None:
    context = Context(tmp_path / "mine", name="mine", seed=0, run_seed=0)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        foundation.run(foundation.Settings(folder=tmp_path, template="{question}"), {}, context)
    save_policy(tiny_policy(), tmp_path / "theirs")
    with pytest.raises(SettingError, match="question"):
        foundation.run(foundation.Settings(folder=tmp_path / "theirs", template="none"), {}, context)
    assert not (tmp_path / "mine" / "model").exists()
