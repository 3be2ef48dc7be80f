"""Modules of multi-token prediction through the stages: trained with the base, moved or left by what comes after it,
used by every sampler."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from aha.cli import main
from aha.config import Frozen
from aha.errors import SettingError
from aha.records import StageResult
from aha.stages import evaluate, examples, pretrain, problems, rl, sft, tokenizer
from aha.stages.context import Context, Interrupted
from aha.stages.models import load_policy
from aha.stages.rewarding import Weights
from aha.util.files import read_json, read_jsonl, write_json_atomic

SHAPE = pretrain.Shape(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    num_nextn_predict_layers=1,
)
RL = rl.Settings(
    steps=3, prompts=4, samples=3, max_new_tokens=120, warmup=1, weights=Weights(language=1.0), speculate=1
)


def run_stage(
    run: Callable[..., StageResult],
    settings: Frozen,
    inputs: Mapping[str, Path],
    out: Path,
    context: Context | None = None,
) -> Path:
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    result = run(settings, inputs, context or Context(out, name=out.name, seed=0, run_seed=0))
    write_json_atomic(out / "result.json", {"metrics": result.metrics})
    return out


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mtp")
    words = run_stage(tokenizer.run, tokenizer.Settings(documents=800), {}, root / "tokenizer")
    sizes = {"train": 60, "test": 6, "general_train": 60, "general_test": 24}
    run_stage(problems.run, problems.Settings(source="toy", **sizes), {}, root / "problems")
    settings = pretrain.Settings(shape=SHAPE, steps=30, rows=4, row_length=160, lr=2e-2, warmup=2)
    return run_stage(pretrain.run, settings, {"tokenizer": words}, root / "base")


def weights(stage: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Those of the body and those of the module."""
    state = load_policy(stage / "model").decoder.state_dict()
    module = {name: weight for name, weight in state.items() if ".layers.1." in name}
    return {name: weight for name, weight in state.items() if name not in module}, module


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(weight, other[name]) for name, weight in one.items())


def test_pretraining_trains_them_with_the_body(base: Path) -> None:
    rows = read_jsonl(base / "metrics.jsonl")
    assert rows[-1]["mtp_loss"] < 0.8 * rows[0]["mtp_loss"]
    assert read_json(base / "model" / "config.json")["num_nextn_predict_layers"] == 1


@pytest.mark.parametrize("weight", [0.1, 0.0])
def test_sft_moves_them_by_its_weight(base: Path, tmp_path: Path, weight: float) -> None:
    inputs = {"policy": base, "problems": base.parent / "problems"}
    few = examples.Settings(problems=4, samples=2, clean=20, general=10, max_new_tokens=40)
    data = run_stage(examples.run, few, inputs, tmp_path / "data")
    settings = sft.Settings(epochs=1, batch_tokens=300, rows=2, warmup=1, mtp_weight=weight)
    tuned = run_stage(sft.run, settings, {"init": base, "data": data}, tmp_path / "tuned")
    assert equal(weights(base)[1], weights(tuned)[1]) == (weight == 0)
    assert ("mtp_loss" in read_jsonl(tuned / "metrics.jsonl")[-1]) == (weight > 0)


def test_rl_draws_its_samples_with_them_and_leaves_them(base: Path, tmp_path: Path) -> None:
    inputs = {"init": base, "problems": base.parent / "problems"}
    out = run_stage(rl.run, RL, inputs, tmp_path / "rl")
    assert all(0 <= row["draft_acceptance"] <= 1 for row in read_jsonl(out / "metrics.jsonl"))
    assert all(row["max_logprob_gap"] < 1e-4 for row in read_jsonl(out / "metrics.jsonl"))
    assert equal(weights(base)[1], weights(out)[1]) and not equal(weights(base)[0], weights(out)[0])


class StopAfter(Context):
    """Asked to stop once the first step is saved."""

    def save_due(self) -> bool:
        return True

    def progress(self, step: int, total: int, **fields: float) -> None:
        if step == 1:
            raise Interrupted


def test_rl_lets_them_follow_without_touching_the_policy_and_continues_with_the_same_bits(
    base: Path, tmp_path: Path
) -> None:
    inputs = {"init": base, "problems": base.parent / "problems"}
    settings = RL.model_copy(update={"mtp_lr": 1e-2, "speculate": 0})
    left = run_stage(rl.run, settings.model_copy(update={"mtp_lr": 0.0}), inputs, tmp_path / "left")
    out = run_stage(rl.run, settings, inputs, tmp_path / "out")
    assert equal(weights(left)[0], weights(out)[0])  # the body learned the same
    assert not equal(weights(left)[1], weights(out)[1])
    assert all("mtp_loss" in row for row in read_jsonl(out / "metrics.jsonl"))
    again = tmp_path / "again"
    with pytest.raises(Interrupted):
        run_stage(rl.run, settings, inputs, again, StopAfter(again, name="again", seed=0, run_seed=0))
    run_stage(rl.run, settings, inputs, again)
    assert all(equal(a, b) for a, b in zip(weights(out), weights(again), strict=True))


def test_evaluation_and_generation_draft_where_asked(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = evaluate.Settings(
        samples=2, general_samples=1, max_new_tokens=30, chunk=4, kept_samples=1, temperature=0.0, speculate=1
    )
    inputs = {"model": base, "problems": base.parent / "problems"}
    found = [
        read_json(run_stage(evaluate.run, settings, inputs, tmp_path / name) / "result.json")["metrics"]["length"]
        for name, settings in (("with", few), ("without", few.model_copy(update={"speculate": 0})))
    ]
    assert found[0] == found[1]

    def generate(*options: str) -> Any:
        arguments = ["aha", "generate", str(base), "compute 1 + 2", "--max-new-tokens", "30", *options]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, *capsys.readouterr()

    code, output, errors = generate("--speculate", "1", "--temperature", "0", "--json")
    said = json.loads(output)
    assert not code and said["drafts"]["accepted"] <= said["drafts"]["drafted"]
    plain = json.loads(generate("--temperature", "0", "--json")[1])
    assert plain["completions"][0]["text"] == said["completions"][0]["text"] and "drafts" not in plain
    assert "tokens a step" in generate("--speculate", "1")[2]
    code, _, errors = generate("--speculate", "2")
    assert code and "the model has 1 modules" in errors


def test_a_rate_for_modules_that_are_not_there_is_refused(base: Path, tmp_path: Path) -> None:
    plain = pretrain.Settings(shape=SHAPE.model_copy(update={"num_nextn_predict_layers": 0}), steps=1, rows=1)
    without = run_stage(pretrain.run, plain, {"tokenizer": base.parent / "tokenizer"}, tmp_path / "plain")
    with pytest.raises(SettingError, match="no modules of multi-token prediction"):
        inputs = {"init": without, "problems": base.parent / "problems"}
        run_stage(rl.run, RL.model_copy(update={"mtp_lr": 1e-3, "speculate": 0}), inputs, tmp_path / "rl")
