"""Preferences as stages: files made ready, reward models and preference optimisation from them, pairs from verified
samples; the same bits after a stop, and errors for what cannot be."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_rl import StopsAt, run_stage, sums, without_time, write_inputs

from aha.data.preference_files import load_pairs, save_pairs
from aha.data.preferences import Pair
from aha.data.problems import save_problems
from aha.errors import DataError, SettingError
from aha.evaluate.runner import Judged
from aha.model.decoder import first_layers
from aha.model.heads import RewardModel, load_reward_model
from aha.objective.direct import PREFERENCES
from aha.records import Completion, FinishReason, Problem
from aha.reward.learned import pad_right
from aha.reward.response import read_response
from aha.stages import memory, preference, preference_data, reward_head, reward_model, verified_pairs
from aha.stages import states as states_stage
from aha.stages.context import Context, Interrupted
from aha.stages.judged_texts import Item, items_of_pairs, load_items, report_of, sides
from aha.stages.models import load_policy
from aha.stages.states import load_states
from aha.util.files import read_json, read_jsonl, write_json_atomic

DIRECT = preference.Settings(epochs=2, batch=8, lr=3e-2, warmup=1, token_budget=120)
SCORED = reward_model.Settings(reads="everything", batch=2, lr=3e-2, longest=100)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An untrained policy; pairs in which the right sum, said shortly, is preferred to a 0 that is said twice."""
    at = tmp_path_factory.mktemp("preferences")
    found = write_inputs(at)
    rows = [
        {"problem": f"{a} + {b}", "chosen": f"{a} {b} 7", "rejected": f"{b} 0 0", "split": split}
        for a in range(10)
        for b, split in enumerate(["train", "test", "train", "train", "train", "train"], 4)
    ]
    file = at / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run_stage(preference_data.run, preference_data.Settings(file=file), {}, at / "preferences")
    labelled = [
        {"problem": row["problem"], "response": row[key], "label": label, "split": row["split"]}
        for row in rows
        for key, label in (("chosen", "safe"), ("rejected", "unsafe"))
    ]
    file = at / "labelled.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in labelled), encoding="utf-8")
    run_stage(preference_data.run, preference_data.Settings(file=file), {}, at / "labelled")
    return {"init": found["init"], "preferences": at / "preferences", "labelled": at / "labelled"}


def metrics(stage: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(stage / "result.json")["metrics"]
    return found


@pytest.mark.parametrize("name", PREFERENCES)
def test_the_margin_rises_on_prompts_never_trained_on(name: str, inputs: dict[str, Path], tmp_path: Path) -> None:
    out = run_stage(preference.run, DIRECT.model_copy(update={"algorithm": name}), inputs, tmp_path / name)
    found, rows = metrics(out), read_jsonl(out / "metrics.jsonl")
    assert found["held_out"]["margin"]["low"] > found["held_out"]["margin_before"]["high"]
    assert found["held_out"]["accuracy"]["value"] > 0.8
    assert found["steps"] == len(rows) == 2 * 7 and found["pairs"] == 50
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["margin"] > rows[0]["margin"]
    if name != "simpo":
        assert rows[0]["margin"] == pytest.approx(0, abs=1e-4)  # the policy is its own reference yet
    assert ("baseline" in rows[0]) == (name == "kto")
    assert rows[0]["memory_estimate"] > 0


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_a_stopped_stage_continues_with_the_same_bits(name: str, inputs: dict[str, Path], tmp_path: Path) -> None:
    settings = DIRECT.model_copy(update={"algorithm": name})
    whole = run_stage(preference.run, settings, inputs, tmp_path / "whole")
    out = tmp_path / "stopped"
    with pytest.raises(Interrupted):
        out.mkdir()
        run_stage(preference.run, settings, inputs, out, context=StopsAt(out, step=3, lost=2))
    run_stage(preference.run, settings, inputs, out)
    weights = [(path / "model" / "model.safetensors").read_bytes() for path in (whole, out)]
    assert weights[0] == weights[1]
    assert without_time(read_jsonl(whole / "metrics.jsonl")) == without_time(read_jsonl(out / "metrics.jsonl"))
    assert metrics(whole) == metrics(out)


@pytest.mark.parametrize("loss", ["pairwise", "pointwise"])
def test_a_reward_model_learns_from_pairs_of_a_file(loss: str, inputs: dict[str, Path], tmp_path: Path) -> None:
    out = run_stage(reward_model.run, SCORED.model_copy(update={"loss": loss}), inputs, tmp_path / loss)
    found = metrics(out)
    held_out = found["held_out"]
    assert held_out["accuracy"]["value"] == found["accuracy"] > 0.8
    assert held_out["accuracy"]["low"] < found["accuracy"]
    assert 0 <= held_out["calibration"]["ece"] <= 1 and held_out["calibration"]["bins"]
    assert (found["offset"] == 0) == (loss == "pointwise")
    load_reward_model(out / "model")


@pytest.fixture(scope="module")
def states(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = states_stage.Settings(depths=(1, 2), token_budget=60)
    return run_stage(states_stage.run, settings, inputs, tmp_path_factory.mktemp("states") / "states")


def test_kept_states_are_those_of_the_cut_model(inputs: dict[str, Path], states: Path) -> None:
    """The score of a saved head on ids is that of the head on the kept states, at every depth."""
    policy = load_policy(inputs["init"] / "model")
    found = load_states(states)
    texts = list(found.places)
    assert len(texts) == metrics(states)["texts"] > 100 and metrics(states)["micro_batches"] > 10
    weight_D = torch.randn(policy.config.hidden_size, generator=torch.Generator().manual_seed(0))
    for depth in (1, 2):
        model = RewardModel(first_layers(policy.decoder, depth))
        with torch.no_grad():
            model.score.copy_(weight_D[None])
            scores = model(*pad_right(texts, policy.tokenizer.pad_id))
        x = found.of(texts, depth=depth)
        normed = x * (x.square().mean(-1, keepdim=True) + policy.config.rms_norm_eps).rsqrt()
        torch.testing.assert_close(scores, normed @ weight_D, atol=1e-5, rtol=1e-5)
    with pytest.raises(DataError, match="2 tokens was not computed"):
        found.of([(1, 2)], depth=1)


def test_states_continue_where_they_were_stopped(inputs: dict[str, Path], states: Path, tmp_path: Path) -> None:
    settings = states_stage.Settings(depths=(1, 2), token_budget=60)
    out = tmp_path / "states"
    out.mkdir()
    with pytest.raises(Interrupted):
        run_stage(states_stage.run, settings, inputs, out, context=StopsAt(out, step=3, lost=2))
    assert len(list(out.glob("*.safetensors"))) == 1
    run_stage(states_stage.run, settings, inputs, out)
    whole, continued = load_states(states), load_states(out)
    assert whole.places == continued.places and torch.equal(whole.states_RKD, continued.states_RKD)


@pytest.mark.parametrize("loss", ["pairwise", "pointwise"])
def test_a_head_learns_from_states_and_every_row_is_held_out_once(
    loss: str, inputs: dict[str, Path], states: Path, tmp_path: Path
) -> None:
    settings = reward_head.Settings(reads="everything", loss=loss, folds=3, inner_folds=2, decays=(0.1, 0.01))
    out = run_stage(reward_head.run, settings, {**inputs, "states": states}, tmp_path / loss)
    found = metrics(out)
    judged = 60 if loss == "pairwise" else 120
    assert sum(b["count"] for b in found["held_out"]["calibration"]["bins"]) == judged
    assert sum(b["count"] for b in found["test"]["calibration"]["bins"]) == judged // 6
    assert found["held_out"]["accuracy"]["value"] == found["accuracy"] > 0.8
    assert sum(found["depths"].values()) == 3 and found["depths"][str(found["depth"])] >= 1
    model, config = load_reward_model(out / "model")
    assert config.num_hidden_layers == found["depth"]
    policy = load_policy(inputs["init"] / "model")
    items, _ = load_items(inputs["preferences"], "test", "everything", loss, policy.renderer)
    with torch.no_grad():
        scores = [model(*pad_right(texts, policy.tokenizer.pad_id)) - found["offset"] for texts in sides(items)]
    again = report_of(scores, items)
    assert again["accuracy"] == found["test"]["accuracy"]
    assert again["calibration"]["ece"] == pytest.approx(found["test"]["calibration"]["ece"], abs=1e-5)


def test_a_few_prompts_leave_inner_folds_empty_and_depth_and_decay_are_still_chosen(
    inputs: dict[str, Path], states: Path, tmp_path: Path
) -> None:
    settings = reward_head.Settings(reads="everything", folds=3, inner_folds=2, decays=(0.1, 0.01))
    both = {**inputs, "states": states}
    few, many = (
        metrics(run_stage(reward_head.run, settings.model_copy(update={"inner_folds": n}), both, tmp_path / str(n)))
        for n in (50, 5_000)  # of 60 prompts a third is held out: each is a fold of its own in both
    )
    assert few["held_out"] == many["held_out"]


@pytest.mark.parametrize("loss", ["pairwise", "pointwise"])
def test_texts_behind_thinking_alone_are_answers_and_pairs_without_a_difference_go(
    loss: str, inputs: dict[str, Path]
) -> None:
    """As R1 itself writes: no answer tag."""
    renderer = load_policy(inputs["init"] / "model").renderer
    problem = Problem("p", "2 + 3", "5", "general")

    def pair(chosen: str, rejected: str) -> Pair:
        return Pair(problem, chosen, rejected)

    def texts(reads: Any, *pairs: Pair) -> list[str]:
        found = sides(items_of_pairs(pairs, reads, loss, renderer)[0])
        return [renderer.tokenizer.decode(ids).split(" = ")[-1].split()[0:9] for ids in found[0]]

    good = pair("<think> 2 + 3 </think> 5", "<think> 9 </think> 7")
    answers, everything = texts("answer", good), texts("everything", good)
    assert answers[0][0] == "5" and "2" not in answers[0]
    assert everything[0][:4] == ["2", "+", "3", "5"]
    same = pair("<think> 2 </think> 5", "<think> 3 </think> 5")
    cut = pair("<think> 2 </think> 5", "<think> 3 + 3 + 3")
    assert texts("answer", same, good, cut) == answers
    assert len(texts("everything", same, good)) == 2 * len(everything)
    with pytest.raises(DataError, match="none of 2 pairs has two different answers"):
        texts("answer", same, cut)


def test_texts_longer_than_the_model_reads_are_left_out(inputs: dict[str, Path], tmp_path: Path) -> None:
    model = tmp_path / "short" / "model"
    shutil.copytree(inputs["init"] / "model", model)
    config = read_json(model / "config.json")
    write_json_atomic(model / "config.json", config | {"max_position_embeddings": 4})
    both = {**inputs, "init": tmp_path / "short"}
    with pytest.raises(DataError, match="at most 4 tokens long .*the model's max_position_embeddings 4"):
        run_stage(preference.run, DIRECT, both, tmp_path / "a")
    with pytest.raises(DataError, match="at most 4 tokens long .*the model's max_position_embeddings 4"):
        run_stage(reward_model.run, SCORED, both, tmp_path / "b")


def test_what_is_left_out_is_counted(inputs: dict[str, Path], tmp_path: Path) -> None:
    renderer = load_policy(inputs["init"] / "model").renderer
    problem = Problem("p", "2 + 3", "5", "general")
    short, same = Pair(problem, "5", "7"), Pair(problem, "5", "5")
    long = Pair(problem, "5", "7 " * 40)
    most = max(len(renderer.example(problem.prompt, text).ids) for text in (short.chosen, short.rejected))
    folder = tmp_path / "preferences"
    folder.mkdir()
    save_pairs(folder / "pairs_train.jsonl", [short] * 4 + [same, long])
    save_pairs(folder / "pairs_test.jsonl", [short, same, same, long, long])
    both = {**inputs, "preferences": folder}
    found = metrics(run_stage(preference.run, DIRECT.model_copy(update={"longest": most}), both, tmp_path / "a"))
    assert found["left_out"] == {"too long": 3} and found["pairs"] == 5
    found = metrics(run_stage(reward_model.run, SCORED.model_copy(update={"longest": most}), both, tmp_path / "b"))
    assert found["left_out"] == {"nothing to compare": 3, "too long": 3} and found["pairs"] == 4


def test_folds_hold_out_whole_prompts() -> None:
    items = [Item((i // 2, 7, i), prompt=1) for i in range(40)]
    found = reward_head._folds(items, 4, 0)
    assert found[::2] == found[1::2] and Counter(found) == {0: 10, 1: 10, 2: 10, 3: 10}
    assert reward_head._folds(items, 4, 1) != found


def test_a_pointwise_model_learns_from_labels_and_a_pairwise_one_refuses_them(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    labelled = {**inputs, "preferences": inputs["labelled"]}
    out = run_stage(reward_model.run, SCORED.model_copy(update={"loss": "pointwise"}), labelled, tmp_path / "a")
    assert metrics(out)["accuracy"] > 0.8
    assert metrics(out)["held_out"]["accuracy_bad"]["value"] > 0.5
    with pytest.raises(SettingError, match="set loss=pointwise"):
        run_stage(reward_model.run, SCORED, labelled, tmp_path / "b")


def test_what_cannot_be_is_refused(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingError, match="no preference algorithm 'dop'"):
        preference.Settings(algorithm="dop")
    with pytest.raises(SettingError, match="dpo has none"):
        preference.Settings(margin=1.0)
    with pytest.raises(DataError, match="longest=3"):
        run_stage(preference.run, DIRECT.model_copy(update={"longest": 3}), inputs, tmp_path / "a")
    with pytest.raises(DataError, match="longest=3"):
        run_stage(reward_model.run, SCORED.model_copy(update={"longest": 3}), inputs, tmp_path / "b")
    monkeypatch.setattr(memory, "available_memory", lambda: 0)
    with pytest.raises(SettingError, match="lower token_budget"):
        run_stage(preference.run, DIRECT, inputs, tmp_path / "c")
    assert not list((tmp_path / "c").iterdir())


def test_lengths_are_balanced_for_training_and_left_for_the_test(tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [
        {"problem": f"p {i}", "chosen": "a" * rng.randint(20, 60), "rejected": "b" * rng.randint(10, 45)}
        for i in range(600)
    ]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = metrics(run_stage(preference_data.run, preference_data.Settings(file=file), {}, tmp_path / "out"))
    assert found["lengths_before"]["longer_chosen"] > 0.7
    assert found["lengths_train"]["longer_chosen"] == pytest.approx(0.5, abs=0.04)  # the rest are of equal length
    assert found["lengths_train"]["chosen"] == pytest.approx(found["lengths_train"]["rejected"], abs=1.5)
    assert found["lengths_test"]["longer_chosen"] > 0.6
    assert found["train"] + found["test"] + found["dropped"]["lengths balanced"] == 600
    few = preference_data.Settings(file=file, balance=False, train=20, test=5, longest=50, prompt_tail=2)
    found = metrics(run_stage(preference_data.run, few, {}, tmp_path / "few"))
    assert (found["train"], found["test"]) == (20, 5)
    assert found["dropped"]["the end of the prompt is tested"] > 0  # "p 12" and "p 112" end alike
    prompts = [{p.problem.prompt for p in load_pairs(tmp_path / "few" / f"pairs_{n}.jsonl")} for n in ("train", "test")]
    assert max(map(len, prompts[0] | prompts[1])) == 2 and not prompts[0] & prompts[1]
    assert max(len(pair.chosen) for pair in load_pairs(tmp_path / "few" / "pairs_train.jsonl")) < 50


def judged(*texts: str, cut: bool = False) -> Judged:
    problem = Problem("p", "2 + 3", "5", "number")
    reason = FinishReason.LENGTH if cut else FinishReason.END
    completions = tuple(Completion((1,), (-1.0,), reason, 0) for _ in texts)
    return Judged(problem, completions, texts, tuple(read_response(text) for text in texts))


def test_a_pair_is_a_right_and_a_wrong_completion_of_one_problem() -> None:
    right = [f"<think> {i} </think> <answer> 5 </answer>" for i in range(3)]
    wrong = ["<think> a </think> <answer> 6 </answer>", "no tags", "no tags"]
    counts: Counter[str] = Counter()
    pairs = verified_pairs.pair_up(
        judged(*right, *wrong, "<answer> 5 </answer>", " "), 5, random.Random(0), counts
    )
    assert len(pairs) == 2 and {p.rejected for p in pairs} == set(wrong)
    assert len({p.chosen for p in pairs} & set(right)) == 2
    assert counts == {"right": 3, "wrong": 3, "right, bad format": 1, "cut or empty": 1, "problems with a pair": 1}
    assert len(verified_pairs.pair_up(judged(*right, *wrong), 1, random.Random(0), Counter())) == 1
    assert verified_pairs.pair_up(judged(*right), 5, random.Random(0), Counter()) == []
    assert verified_pairs.pair_up(judged(*right, *wrong, cut=True), 5, random.Random(0), Counter()) == []


def test_pairs_of_a_model_that_is_never_right_are_an_error(tmp_path: Path) -> None:
    found = write_inputs(tmp_path)
    save_problems(found["problems"] / "test.jsonl", sums()[:3])
    settings = verified_pairs.Settings(problems=6, held_out=3, samples=2, max_new_tokens=12)
    with pytest.raises(DataError, match="no pair among 2 samples of 6 train problems"):
        edges = {"policy": found["init"], "problems": found["problems"]}
        run_stage(verified_pairs.run, settings, edges, tmp_path / "a")


def test_pairs_of_verified_samples_are_learned_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verifier that likes a 7 anywhere, so that an untrained policy is right now and then."""
    found = write_inputs(tmp_path)
    save_problems(found["problems"] / "test.jsonl", sums()[:12])
    original = verified_pairs.read_groups

    def read(groups: Any, renderer: Any) -> list[Judged]:
        def retold(text: str, answer: str) -> str:
            return f"<think> {text} </think> <answer> {answer if '7' in text else '0'} </answer>"

        told = []
        for j in original(groups, renderer):
            texts = tuple(retold(re.sub(r"<[^>]*>", "", text), j.problem.answer) for text in j.texts)
            told.append(Judged(j.problem, j.completions, texts, tuple(map(read_response, texts))))
        return told

    monkeypatch.setattr(verified_pairs, "read_groups", read)
    settings = verified_pairs.Settings(problems=20, held_out=12, samples=6, max_new_tokens=60, chunk=7)
    edges = {"policy": found["init"], "problems": found["problems"]}
    out = run_stage(verified_pairs.run, settings, edges, tmp_path / "pairs")
    again = run_stage(verified_pairs.run, settings, edges, tmp_path / "again")
    pairs = load_pairs(out / "pairs_train.jsonl")
    assert 10 < len(pairs) <= 40 and len(pairs) == metrics(out)["train"]
    assert all("7" in p.chosen.split("</think>")[0] and "7" not in p.rejected.split("</think>")[0] for p in pairs)
    assert (again / "pairs_train.jsonl").read_bytes() == (out / "pairs_train.jsonl").read_bytes()
    inputs = {"init": found["init"], "preferences": out}
    trained = metrics(run_stage(preference.run, DIRECT, inputs, tmp_path / "dpo"))
    assert trained["held_out"]["margin"]["low"] > 0


def test_kto_needs_more_than_one_prompt(inputs: dict[str, Path], tmp_path: Path) -> None:
    rows = read_jsonl(inputs["preferences"] / "pairs_train.jsonl")
    for name in ("train", "test"):
        path = tmp_path / "one" / f"pairs_{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps({**row, "problem": "1"}) + "\n" for row in rows[:9]), encoding="utf-8")
    context = Context(tmp_path, name="kto", seed=0, run_seed=0)
    with pytest.raises(DataError, match="all pairs have the same"):
        preference.run(
            DIRECT.model_copy(update={"algorithm": "kto"}),
            {"init": inputs["init"], "preferences": tmp_path / "one"},
            context,
        )


def test_single_texts_of_pairs_are_compared_too() -> None:
    good, bad = Item((1, 2, 3), label=1.0, prompt=2), Item((1, 2, 4), label=0.0, prompt=2)
    other = Item((5, 2, 4), label=0.0, prompt=2)
    scores = [torch.tensor([-1.0, -2.0, 0.5, 0.5, 3.0, 1.0])]
    assert report_of(scores, [good, bad] * 3)["pairs"]["value"] == 2 / 3  # equal scores are wrong
    assert "pairs" not in report_of(scores, [good, bad, good, other, good, bad])  # of two prompts
    assert "pairs" not in report_of(scores, [good, bad, bad, good, good, bad])
