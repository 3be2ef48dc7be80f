"""The recipe's stages at the smallest size that still does everything: files and figures of each, the same bits for the
same seed, the same bits after a stop, and errors for what cannot be."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import parquet
from safetensors.torch import load_file
from tiny_rl import StopsAt, run_stage, without_time
from transformers import AutoModelForCausalLM

from aha.config import Frozen
from aha.data.examples import load_examples
from aha.data.problems import is_held_out, load_problems
from aha.errors import DataError, InvariantError, SettingError
from aha.records import Sample
from aha.reward import early, rules
from aha.reward.response import read_response
from aha.stages import evaluate, examples, pretrain, problems, reward_model, rl, sft, tokenizer
from aha.stages.context import Interrupted
from aha.stages.models import load_policy
from aha.stages.rewarding import Weights
from aha.util.files import read_json, read_jsonl

SHAPE = pretrain.Shape(
    hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1
)
PRETRAIN = pretrain.Settings(shape=SHAPE, steps=16, rows=4, row_length=160, lr=2e-2, warmup=2)
# Language is a share and not yes or no, so that even a model that knows nothing has groups with a difference.
RL = rl.Settings(
    steps=3,
    prompts=4,
    samples=3,
    minibatches=2,
    max_new_tokens=200,
    warmup=1,
    samples_every=2,
    weights=Weights(language=1.0),
)
EXAMPLES = examples.Settings(problems=4, samples=2, clean=20, general=10, max_new_tokens=40)
SFT = sft.Settings(epochs=2, batch_tokens=300, rows=2, warmup=1)
REWARD = reward_model.Settings(reads="answer", pairs=40, held_out_pairs=10, batch=8)
EVALUATE = evaluate.Settings(samples=4, general_samples=2, max_new_tokens=40, chunk=4, kept_samples=3)


@dataclass(frozen=True)
class Micro:
    """The folders of the finished stages."""

    root: Path

    def __getattr__(self, name: str) -> Path:
        return self.root / name


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Any:
    at = Micro(tmp_path_factory.mktemp("micro"))
    sizes = {"train": 60, "test": 6, "general_train": 60, "general_test": 24}
    run_stage(tokenizer.run, tokenizer.Settings(documents=800), {}, at.tokenizer)
    run_stage(problems.run, problems.Settings(source="toy", **sizes), {}, at.problems)
    run_stage(pretrain.run, PRETRAIN, {"tokenizer": at.tokenizer}, at.base)
    run_stage(rl.run, RL, {"init": at.base, "problems": at.problems}, at.r1_zero)
    run_stage(examples.run, EXAMPLES, {"policy": at.r1_zero, "problems": at.problems}, at.cold_start)
    run_stage(sft.run, SFT, {"init": at.base, "data": at.cold_start}, at.dev1)
    run_stage(reward_model.run, REWARD, {"init": at.dev1, "problems": at.problems}, at.helpful)
    everything = REWARD.model_copy(update={"reads": "everything"})
    run_stage(reward_model.run, everything, {"init": at.dev1, "problems": at.problems}, at.safe)
    judges = {"helpful": at.helpful, "safe": at.safe}
    run_stage(evaluate.run, EVALUATE, {"model": at.dev1, "problems": at.problems, **judges}, at.dev1_eval)
    return at


RL_KEYS = {
    "step", "accuracy", "reward", "format", "language", "length", "length_max", "truncated", "entropy", "kl",
    "mismatch_kl", "logprob_gap", "max_logprob_gap", "ess", "grad_norm", "lr", "reflection", "groups_kept",
    "tokens", "seconds", "tokens_per_second", "reward/accuracy", "reward/format", "reward/language",
}  # fmt: skip


def metrics(stage: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(stage / "result.json")["metrics"]
    return found


def test_every_model_folder_is_whole(micro: Any) -> None:
    for name in ("base", "r1_zero", "dev1"):
        folder = getattr(micro, name) / "model"
        policy = load_policy(folder)
        assert policy.renderer.template == load_policy(micro.base / "model").renderer.template
        assert policy.tokenizer.end_token_ids == (policy.config.eos_token_id,)
        assert AutoModelForCausalLM.from_pretrained(folder).config.vocab_size == policy.config.vocab_size


def test_training_logs_every_step_with_the_reports_keys(micro: Any) -> None:
    for name, steps in (("base", PRETRAIN.steps), ("dev1", metrics(micro.dev1)["steps"])):
        rows = read_jsonl(getattr(micro, name) / "metrics.jsonl")
        assert [row["step"] for row in rows] == list(range(1, steps + 1))
        assert rows[0].keys() >= {"step", "loss", "lr", "grad_norm", "tokens", "seconds"}
        assert all(math.isfinite(value) for row in rows for value in row.values())
    losses = [row["loss"] for row in read_jsonl(micro.base / "metrics.jsonl")]
    assert losses[-1] < losses[0] - 0.5
    assert metrics(micro.base)["loss"] == losses[-1]


def test_rl_logs_every_step_with_the_reports_keys(micro: Any) -> None:
    rows = read_jsonl(micro.r1_zero / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert row.keys() >= RL_KEYS
        assert all(math.isfinite(value) for value in row.values())
        assert 0 < row["logprob_gap"] < 1e-5  # sampler and trainer compute the same model
        assert row["max_logprob_gap"] < 1e-3
        assert row["mismatch_kl"] < 1e-6
        assert row["entropy"] > 0
        assert 0 <= row["truncated"] <= 1
    assert max(row["groups_kept"] for row in rows) > 0
    assert metrics(micro.r1_zero)["reward"] == rows[-1]["reward"]


def test_every_metric_of_rl_has_a_row_in_the_documentation(micro: Any) -> None:
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    explained = set(re.findall(r"^\| `([^`]+)` \|", page.read_text(encoding="utf-8"), re.MULTILINE))
    logged = {
        re.sub(r"/.*", "/NAME" if key.startswith("reward/") else "/TASK", key)
        for row in read_jsonl(micro.r1_zero / "metrics.jsonl")
        for key in row
    }
    assert {"accuracy/TASK", "length/TASK", "reward/NAME", "mismatch_kl", "seconds"} <= logged
    assert logged <= explained, f"docs/metrics.md has no row for {sorted(logged - explained)}"


def test_rl_keeps_samples_that_people_can_read(micro: Any) -> None:
    names = sorted(path.name for path in (micro.r1_zero / "samples").iterdir())
    assert names == ["step_000001.parquet", "step_000002.parquet", "step_000003.parquet"]
    for name in names:
        table = parquet.read_table(micro.r1_zero / "samples" / name)
        assert set(table.column_names) == set(Sample.__dataclass_fields__)
        for row in table.to_pylist():
            rewards = json.loads(row["rewards"])
            assert row["reward"] == pytest.approx(sum(getattr(RL.weights, k) * v for k, v in rewards.items()))
            assert len(row["tokens"]) == len(row["advantages"]) > 0
            assert row["step"] == int(name[5:11])
    evaluated = parquet.read_table(micro.dev1_eval / "samples" / "evaluation.parquet")
    assert evaluated.schema == table.schema


def test_problem_sets_are_split(micro: Any) -> None:
    for name, count in (("train", 60), ("test", 6), ("general_train", 60), ("general_test", 24)):
        found = load_problems(micro.problems / f"{name}.jsonl")
        assert len(found) == count == metrics(micro.problems)[name]
        assert all(is_held_out(p.id) == name.endswith("test") for p in found)


def test_bad_golds_of_a_file_are_left_out_listed_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    rows = [{"problem": f"q{i}", "answer": f"x^2+{i}", "task": "math"} for i in range(60)]
    rows[7]["answer"] = "x +* /"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    out = run_stage(problems.run, problems.Settings(source=path), {}, tmp_path / "own")
    kept = load_problems(out / "train.jsonl") + load_problems(out / "test.jsonl")
    assert sorted(p.prompt for p in kept) == sorted(f"q{i}" for i in range(60) if i != 7)
    assert metrics(out)["dropped_golds"] == 1
    (bad,) = [json.loads(line) for line in (out / "dropped_golds.jsonl").read_text().splitlines()]
    assert (bad["file"], bad["row"], bad["gold"]) == (str(path), 8, "x +* /") and "cannot be read" in bad["why"]


def test_families_of_reasoning_gym_are_a_source(tmp_path: Path) -> None:
    pytest.importorskip("reasoning_gym")
    settings = problems.Settings(source="gym:leg_counting,spell_backward", train=20, test=4)
    out = run_stage(problems.run, settings, {}, tmp_path / "gym")
    for name, count in (("train", 20), ("test", 4)):
        found = load_problems(out / f"{name}.jsonl")
        assert len(found) == count and {p.task for p in found} == {"reasoning_gym"}
    assert {p.meta["family"] for p in load_problems(out / "train.jsonl")} == {"leg_counting", "spell_backward"}


def test_examples_are_of_training_problems_and_in_the_format(micro: Any) -> None:
    found = load_examples(micro.cold_start / "examples.jsonl")
    said = metrics(micro.cold_start)
    assert len(found) == said["examples"] == sum(said["origins"].values()) >= 30
    assert sum(said["samples"].values()) == 8
    asked = {p.prompt for name in ("train", "general_train") for p in load_problems(micro.problems / f"{name}.jsonl")}
    for example in found:
        assert example.question in asked
        assert read_response(example.completion).well_formed


def test_evaluation_has_what_the_report_reads(micro: Any) -> None:
    found = metrics(micro.dev1_eval)
    assert found["model"] == "dev1"
    for name in ("pass@1", "cons@4", "pass@4", "format", "language", "length", "general", "preference"):
        assert found[name].keys() == {"value", "low", "high"}
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
    assert [row["k"] for row in found["votes"]] == [1, 2, 4]
    assert found["votes"][0]["value"] == pytest.approx(found["pass@1"]["value"])
    for parts in found["by_task"].values():
        assert parts.keys() >= {"pass@1", "length"}
    assert found["seconds"] > 0


def test_a_reward_model_is_measured_on_prompts_it_never_saw(micro: Any) -> None:
    for name in ("helpful", "safe"):
        found = metrics(getattr(micro, name))
        assert 0 <= found["accuracy"] <= 1
        assert math.isfinite(found["offset"])
        assert found["pairs"] == REWARD.pairs


@pytest.mark.parametrize("name", ["base", "r1_zero", "cold_start", "dev1", "helpful", "dev1_eval"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(name: str, micro: Any, tmp_path: Path) -> None:
    inputs = {"problems": micro.problems}
    runs: dict[str, tuple[Any, Frozen, dict[str, Path]]] = {
        "base": (pretrain.run, PRETRAIN, {"tokenizer": micro.tokenizer}),
        "r1_zero": (rl.run, RL, {"init": micro.base, **inputs}),
        "cold_start": (examples.run, EXAMPLES, {"policy": micro.r1_zero, **inputs}),
        "dev1": (sft.run, SFT, {"init": micro.base, "data": micro.cold_start}),
        "helpful": (reward_model.run, REWARD, {"init": micro.dev1, **inputs}),
        "dev1_eval": (evaluate.run, EVALUATE, {"model": micro.dev1, **inputs}),
    }
    again = run_stage(*runs[name], tmp_path / name)
    other = run_stage(*runs[name], tmp_path / "other", seed=1)
    first = getattr(micro, name)
    result = {"cold_start": "examples.jsonl", "dev1_eval": "samples/evaluation.parquet"}.get(
        name, "model/model.safetensors"
    )
    assert (again / result).read_bytes() == (first / result).read_bytes()
    assert (other / result).read_bytes() != (first / result).read_bytes()


def test_a_random_reward_trains_on_a_coin_and_still_measures_accuracy(micro: Any, tmp_path: Path) -> None:
    settings = RL.model_copy(
        update={"steps": 2, "samples": 6, "weights": Weights(accuracy=0.0, format=0.0, random=1.0)}
    )
    out = run_stage(rl.run, settings, {"init": micro.dev1, "problems": micro.problems}, tmp_path / "random")
    rows = read_jsonl(out / "metrics.jsonl")
    for row in rows:
        assert row["reward"] == row["reward/random"]
        assert "reward/accuracy" not in row
        assert 0 < row["reward"] < 1
        assert row["groups_kept"] > 0.5
        assert "accuracy" in row
    samples = parquet.read_table(out / "samples" / "step_000001.parquet").to_pylist()
    assert {row["reward"] for row in samples} == {0.0, 1.0}


def test_accuracy_is_measured_whether_or_not_it_is_rewarded(micro: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(early, "judge_accuracy", lambda problems, _: [rules.format_tags(p, _GOOD) for p in problems])
    weights = Weights(accuracy=0.0, format=0.0, random=1.0)
    settings = RL.model_copy(update={"steps": 1, "weights": weights})
    out = run_stage(rl.run, settings, {"init": micro.base, "problems": micro.problems}, tmp_path / "random")
    (row,) = read_jsonl(out / "metrics.jsonl")
    assert row["accuracy"] == 1.0


_GOOD = read_response("<think> a </think> <answer> b </answer>")


def test_preferences_count_late_and_general_prompts_are_asked(micro: Any, tmp_path: Path) -> None:
    weights = Weights(accuracy=0.0, format=0.0, general=1.0, helpful=1.0, safe=1.0)
    settings = RL.model_copy(
        update={"steps": 2, "weights": weights, "general_share": 0.5, "preference_start": 0.5, "beta": 0.0}
    )
    inputs = {"init": micro.dev1, "problems": micro.problems, "helpful": micro.helpful, "safe": micro.safe}
    out = run_stage(rl.run, settings, inputs, tmp_path / "r1")
    first, last = (parquet.read_table(out / "samples" / f"step_00000{i}.parquet").to_pylist() for i in (1, 2))
    assert {row["task"] for row in first} >= {"general"}
    assert all(json.loads(row["rewards"]).keys() <= {"general"} for row in first)
    assert any({"helpful", "safe"} & json.loads(row["rewards"]).keys() for row in last)
    assert read_jsonl(out / "metrics.jsonl")[-1].keys() >= {"proxy_general", "strict_general"}
    late = settings.model_copy(update={"general_start": 0.5})
    rows = read_jsonl(run_stage(rl.run, late, inputs, tmp_path / "late") / "metrics.jsonl")
    assert ["reward/general" in row for row in rows] == [False, True]
    with pytest.raises(SettingError, match="weights.helpful.*no input 'helpful'"):
        run_stage(rl.run, settings, {"init": micro.dev1, "problems": micro.problems}, tmp_path / "without")


def test_every_set_of_problems_is_asked_equally_often(micro: Any, tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps({"problem": f"{i} + 1", "answer": i + 1}) + "\n" for i in range(80)))
    own = run_stage(problems.run, problems.Settings(source=path), {}, tmp_path / "own")
    inputs = {"init": micro.base, "problems": micro.problems, "problems_own": own}
    asked: list[int] = []
    sample_groups = rl.sample_groups

    def count(engine: Any, problems: Any, *rest: Any, **more: Any) -> Any:
        asked.append(sum(problem.id.startswith("own") for problem in problems))
        assert len(problems) == 5
        return sample_groups(engine, problems, *rest, **more)

    monkeypatch.setattr(rl, "sample_groups", count)
    run_stage(rl.run, RL.model_copy(update={"prompts": 5, "steps": 2}), inputs, tmp_path / "mixed")
    assert asked == [2, 3], "what is left over goes to one and then to the other"
    with pytest.raises(SettingError, match="prompts=1 leaves some of 2 sets"):
        run_stage(rl.run, RL.model_copy(update={"prompts": 1}), inputs, tmp_path / "few")


def test_a_length_cap_that_cuts_most_completions_stops_the_first_step(micro: Any, tmp_path: Path) -> None:
    settings = RL.model_copy(update={"max_new_tokens": 2})
    with pytest.raises(InvariantError, match="max_new_tokens"):
        run_stage(rl.run, settings, {"init": micro.base, "problems": micro.problems}, tmp_path / "short")


def test_unknown_names_and_too_little_data_are_errors(micro: Any, tmp_path: Path) -> None:
    inputs = {"init": micro.base, "problems": micro.problems}
    with pytest.raises(SettingError, match="did you mean 'grpo-r1'"):
        run_stage(rl.run, RL.model_copy(update={"algorithm": "grpo-r2"}), inputs, tmp_path / "a")
    with pytest.raises(DataError, match="61.*60 training problems"):
        run_stage(examples.run, examples.Settings(clean=61), {"problems": micro.problems}, tmp_path / "b")
    with pytest.raises(DataError, match="no example is left"):
        run_stage(examples.run, examples.Settings(), {"problems": micro.problems}, tmp_path / "c")
    with pytest.raises(DataError, match="nothing to learn"):
        run_stage(sft.run, SFT, {"init": micro.base}, tmp_path / "d")
    with pytest.raises(DataError, match="row_length 8"):
        short = SFT.model_copy(update={"row_length": 8})
        run_stage(sft.run, short, {"init": micro.base, "data": micro.cold_start}, tmp_path / "e")
    with pytest.raises(DataError, match="fewer than one batch"):
        run_stage(reward_model.run, REWARD.model_copy(update={"pairs": 7}), inputs, tmp_path / "f")
    many = RL.model_copy(update={"prompts": 100, "general_share": 1.0})
    with pytest.raises(DataError, match="100 general prompts, there are only 60"):
        run_stage(rl.run, many, inputs, tmp_path / "g")


def test_your_own_problems_are_split_and_a_tiny_file_is_refused(tmp_path: Path) -> None:
    rows = [{"problem": f"{i} + 1?", "answer": i + 1} for i in range(80)]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    out = run_stage(problems.run, problems.Settings(source=path, test=5), {}, tmp_path / "own")
    train, test = (load_problems(out / f"{name}.jsonl") for name in ("train", "test"))
    assert len(test) <= 5
    assert not {p.prompt for p in train} & {p.prompt for p in test}
    path.write_text(json.dumps(rows[0]) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="after the split"):
        run_stage(problems.run, problems.Settings(source=path), {}, tmp_path / "few")


def test_arithmetic_is_a_source(tmp_path: Path) -> None:
    out = run_stage(problems.run, problems.Settings(source="arithmetic", train=30, test=10), {}, tmp_path / "sums")
    assert len(load_problems(out / "train.jsonl")) == 30
    assert not (out / "general_train.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "step", "lost"),
    [("base", 5, 2), ("base", 16, 0), ("r1_zero", 1, 1), ("r1_zero", 2, 0), ("r1_zero", 3, 0), ("dev1", 2, 1),
     ("helpful", 2, 1), ("helpful", 5, 0)],
)  # fmt: skip
def test_stop_and_continue_gives_the_bits_of_a_straight_run(
    name: str, step: int, lost: int, micro: Any, tmp_path: Path
) -> None:
    inputs = {"init": micro.base, "problems": micro.problems}
    run, settings, inputs = {
        "base": (pretrain.run, PRETRAIN, {"tokenizer": micro.tokenizer}),
        "r1_zero": (rl.run, RL, inputs),
        "dev1": (sft.run, SFT, {"init": micro.base, "data": micro.cold_start}),
        "helpful": (reward_model.run, REWARD, {"init": micro.dev1, "problems": micro.problems}),
    }[name]
    out, straight = tmp_path / name, getattr(micro, name)
    out.mkdir()
    with pytest.raises(Interrupted):
        run_stage(run, settings, inputs, out, context=StopsAt(out, step, lost))
    assert len(read_jsonl(out / "metrics.jsonl")) == step + lost
    run_stage(run, settings, inputs, out)
    for file in sorted((straight / "model").iterdir()):
        assert (out / "model" / file.name).read_bytes() == file.read_bytes(), file.name
    assert without_time(read_jsonl(out / "metrics.jsonl")) == without_time(read_jsonl(straight / "metrics.jsonl"))
    assert read_json(out / "result.json") == read_json(straight / "result.json")


@pytest.mark.parametrize("kind", ["pretrain", "sft"])
def test_fp8_with_moments_in_bf16_continues_with_the_same_bits(kind: str, micro: Any, tmp_path: Path) -> None:
    run, exact, inputs = {
        "pretrain": (pretrain.run, PRETRAIN, {"tokenizer": micro.tokenizer}),
        "sft": (sft.run, SFT, {"init": micro.base, "data": micro.cold_start}),
    }[kind]
    settings = exact.model_copy(update={"precision": "fp8", "moments": "bf16"})
    straight, out = run_stage(run, settings, inputs, tmp_path / "straight"), tmp_path / "stopped"
    out.mkdir()
    with pytest.raises(Interrupted):
        run_stage(run, settings, inputs, out, context=StopsAt(out, 2, 1))
    run_stage(run, settings, inputs, out)
    first, again = (load_file(folder / "model" / "model.safetensors") for folder in (straight, out))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert {tensor.dtype for tensor in first.values()} == {torch.float32}
    plain = read_jsonl({"pretrain": micro.base, "sft": micro.dev1}[kind] / "metrics.jsonl")[0]["loss"]
    loss = read_jsonl(out / "metrics.jsonl")[0]["loss"]
    assert loss != plain and loss == pytest.approx(plain, rel=0.01)
