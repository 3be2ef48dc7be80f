"""The loop of reinforcement learning, whatever the row of the table: it runs, it continues, it learns."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import random
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from tiny_rl import SETTINGS, StopsAt, plant, rows_of, run_stage, sums, without_time, write_inputs

from aha.data.pool import Choice
from aha.data.problems import save_problems
from aha.errors import InvariantError, SettingError
from aha.objective.algorithms import ALGORITHMS
from aha.records import Problem, Status, Verdict
from aha.reward.response import Response
from aha.reward.rubric import Reward, each
from aha.stages import rl
from aha.stages.context import Context, Interrupted
from aha.stages.rewarding import Weights, build_rewards
from aha.train.guards import GuardSettings
from aha.util.files import read_json, write_json_atomic
from aha.util.seeds import python_rng


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_inputs(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_row_of_the_table_runs(name: str, inputs: dict[str, Path], tmp_path: Path) -> None:
    """A critic's warm-up is one step here, so that the second trains the policy too."""
    warmup = 1 if ALGORITHMS[name].critic else None
    settings = rl.Settings(**{**dict(SETTINGS), "algorithm": name, "critic_warmup": warmup})
    rows = rows_of(run_stage(rl.run, settings, inputs, tmp_path / "rl"))
    assert [row["step"] for row in rows] == [1, 2]
    assert all(math.isfinite(value) for row in rows for key, value in row.items() if key != "guards")
    assert rows[1]["grad_norm"] > 0 and rows[1]["entropy"] > 0
    assert ("value_loss" in rows[0]) == (ALGORITHMS[name].critic is not None)


def settings_of(algorithm: str, **changes: Any) -> rl.Settings:
    return rl.Settings(**{**dict(SETTINGS), "steps": 4, "algorithm": algorithm, **changes})


CONTINUED = {
    "ppo": settings_of("ppo"),
    "vapo, in and after its warm-up": settings_of("vapo", critic_warmup=2),
    "dapo, asking again": settings_of("dapo", samples=2, weights=Weights(tags=0.3)),
    "kimi": settings_of("kimi"),
    "a sampler that is behind": settings_of("grpo", staleness=2, minibatches=1, steps=5),
    "completions in pieces": settings_of("grpo", minibatches=1, piece_tokens=16),
    "problems by their pass rates, wrong ones again": settings_of(
        "grpo", minibatches=1, choice=Choice(strategy="uncertainty", decay=0.5), replay=0.5
    ),
    "a target difficulty": settings_of("rloo", minibatches=1, choice=Choice(strategy="target"), replay=0.25),
    "a reference that is refreshed": settings_of("grpo-r1", beta=1.0),
    "a rollback": settings_of("grpo", minibatches=1, rollback_every=1),
    "a rollback in bf16": settings_of("grpo-r1", beta=0.1, minibatches=2, rollback_every=1, precision="bf16"),
    "a rollback of a sampler that is behind": settings_of("grpo", minibatches=1, rollback_every=1, staleness=1),
    "moments in bf16": settings_of("grpo", minibatches=1, moments="bf16"),
    "an int8 sampler": settings_of("grpo-r1", minibatches=2, sampler="int8"),
}


def same_bits(one: Path, other: Path) -> None:
    for file in sorted((one / "model").iterdir()):
        assert (other / "model" / file.name).read_bytes() == file.read_bytes(), file.name
    assert without_time(rows_of(other)) == without_time(rows_of(one))
    assert read_json(other / "result.json") == read_json(one / "result.json")


@pytest.mark.parametrize("name", CONTINUED)
def test_stop_and_continue_gives_the_bits_of_a_straight_run(
    name: str, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed a step after the state was saved, and stopped right after it was."""
    settings = CONTINUED[name]
    if "refreshed" in name:
        row = dataclasses.replace(ALGORITHMS["grpo-r1"], reference_refresh=3)
        monkeypatch.setitem(rl.ALGORITHMS, "grpo-r1", row)
    if "rollback" in name:
        plant(monkeypatch, 3, repetition=0.9)
    straight = run_stage(rl.run, settings, inputs, tmp_path / "straight")
    rows = rows_of(straight)
    found = [(row["step"], guard["action"]) for row in rows for guard in row.get("guards", ())]
    actions = [(step, action) for step, action in found if action != "warn"]
    does = {
        "vapo": "entropy" not in rows[1] and "entropy" in rows[2],
        "dapo": max(row["rounds"] for row in rows) > 1 and max(row["tokens_wasted"] for row in rows) > 0,
        "a sampler": [row["staleness"] for row in rows] == [0, 1, 2, 1, 2],
        "completions in pieces": max(row.get("under_way", 0) for row in rows) > 0 and rows[-1]["staleness"] > 0,
        "a reference": rows[-1]["kl"] > 0,
        "a rollback": actions == [(3, "rollback")] and rows[3]["lr"] == 0.5 * rows[1]["lr"],
        "a rollback of a sampler": [row["staleness"] for row in rows] == [0, 1, 1, 0],
    }
    assert all(done for start, done in does.items() if name.startswith(start)), "the run must do what is continued"
    for step, lost in ((2, 1), (3, 0)):
        out = tmp_path / f"stopped{step}"
        out.mkdir()
        with pytest.raises(Interrupted):
            run_stage(rl.run, settings, inputs, out, context=StopsAt(out, step, lost))
        assert len(rows_of(out)) == step + lost
        run_stage(rl.run, settings, inputs, out)
        same_bits(straight, out)


def test_a_step_is_sampled_while_the_one_before_it_is_learned(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither ends before the other has begun; and side by side they do what they do one after the other."""
    settings = settings_of("grpo", staleness=1, minibatches=1)
    begin, learn, sample = rl.Beside.begin, rl.learn, rl.sample_groups
    with monkeypatch.context() as patch:
        patch.setattr(rl.Beside, "begin", lambda self, work: answered(work()))
        alone = run_stage(rl.run, settings, inputs, tmp_path / "alone")
    meeting = threading.Barrier(2, timeout=60)
    met: list[int] = []

    def learn_then(*arguments: Any, **named: Any) -> Any:
        if len(met) < 3:  # the last step has none behind it
            met.append(meeting.wait())
        return learn(*arguments, **named)

    def sample_then(engine: Any, *others: Any, **named: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            meeting.wait()
        return sample(engine, *others, **named)

    monkeypatch.setattr(rl, "learn", learn_then)
    monkeypatch.setattr(rl, "sample_groups", sample_then)
    monkeypatch.setattr(rl.Beside, "begin", begin)
    same_bits(alone, run_stage(rl.run, settings, inputs, tmp_path / "together"))
    assert len(met) == 3


def answered(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def test_what_goes_wrong_beside_a_step_is_said_with_its_own(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(engine: Any, problems: Any, prompts: Any, samples: int, params: Any, seed: int, step: int, **_: Any):  # type: ignore[no-untyped-def]
        if step == 2:
            raise InvariantError("no luck")
        return sample(engine, problems, prompts, samples, params, seed, step)

    sample = rl.sample_groups
    monkeypatch.setattr(rl, "sample_groups", broken)
    with pytest.raises(InvariantError, match="^step 3: no luck$"):
        run_stage(rl.run, settings_of("grpo", staleness=1, minibatches=1), inputs, tmp_path / "rl")
    assert len(rows_of(tmp_path / "rl")) == 2, "the step that was learned meanwhile is there"


def test_what_went_wrong_is_asked_again_in_its_own_language_and_once_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every id is there in both languages; an untrained model answers all wrong, so all may be asked again."""
    both = [dataclasses.replace(problem, language=language) for problem in sums()[:4] for language in ("en", "zh")]
    inputs, asked = write_inputs(tmp_path / "inputs", problems=both), []
    sample = rl.sample_groups

    def noted(engine: Any, problems: Sequence[Problem], *others: Any, **named: Any) -> Any:
        asked.append([problem.key for problem in problems])
        return sample(engine, problems, *others, **named)

    monkeypatch.setattr(rl, "sample_groups", noted)
    run_stage(rl.run, settings_of("grpo", steps=6, prompts=4, replay=0.5), inputs, tmp_path / "rl")
    assert len(asked) == 6 and all(len(set(step)) == 4 for step in asked)
    again = [len(set(now) & {key for step in asked[:i] for key in step}) for i, now in enumerate(asked)]
    assert again[1] >= 2, "two of the first four, at least"
    run_stage(rl.run, settings_of("grpo", steps=6, prompts=4, replay=1.0), inputs, tmp_path / "all")
    assert set(asked[6]) == set(asked[-1]), "the first four for ever"


def test_pieces_do_not_go_with_rows_that_ask_again() -> None:
    for name in ("dapo", "gpg"):
        with pytest.raises(SettingError, match=f"piece_tokens=8 with algorithm '{name}' and refill_rounds=4: .* leave"):
            settings_of(name, piece_tokens=8)
        settings_of(name, piece_tokens=8, refill_rounds=1)


def test_a_run_whose_answers_are_too_long_is_stopped_in_pieces_too(inputs: dict[str, Path], tmp_path: Path) -> None:
    """What ends in the first piece has not been cut. A stop before the check leaves its counts in the state."""
    settings = settings_of("grpo", steps=12, prompts=8, samples=2, minibatches=1, max_new_tokens=6, lr=1e-6)
    with pytest.raises(InvariantError, match=r"[5-9]\d% of the first completions were cut at max_new_tokens"):
        run_stage(rl.run, settings, inputs, tmp_path / "whole")
    settings, out = settings.model_copy(update={"piece_tokens": 2}), tmp_path / "pieces"
    out.mkdir()
    with pytest.raises(Interrupted):
        run_stage(rl.run, settings, inputs, out, context=StopsAt(out, 1, 0))
    assert 0 < rows_of(out)[0]["completions"] < 16 and rows_of(out)[0]["truncated"] == 0
    with pytest.raises(InvariantError, match=r"[5-9]\d% of the first completions were cut at max_new_tokens"):
        run_stage(rl.run, settings, inputs, out)
    rows = rows_of(out)
    assert sum(row["completions"] for row in rows) < 16, "stopped as soon as eight groups have finished"


@pytest.mark.parametrize("piece", [None, 8])
def test_the_tokens_of_a_step_are_those_that_were_sampled_in_it(
    piece: int | None, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, engines, build = [0], [], rl.build_engine

    def built(*arguments: Any, **named: Any) -> Any:
        engines.append(build(*arguments, **named))
        return engines[-1]

    class Counted(Context):
        def progress(self, step: int, total: int, **fields: float) -> None:
            drawn.append(engines[0].sampled_tokens)

    monkeypatch.setattr(rl, "build_engine", built)
    settings, out = settings_of("grpo", minibatches=1, piece_tokens=piece), tmp_path / "rl"
    run_stage(rl.run, settings, inputs, out, context=Counted(out, name="rl", seed=0, run_seed=0))
    assert [row["tokens"] for row in rows_of(out)] == [now - before for before, now in itertools.pairwise(drawn)]


def write_sets(folder: Path) -> dict[str, Path]:
    """Three sets of the same sums, and general prompts."""
    sets = {name: [dataclasses.replace(p, id=f"{name}/{p.id}") for p in sums()] for name in "abc"}
    inputs = write_inputs(folder, problems=sets["a"])
    for name in "bc":
        inputs[f"problems_{name}"] = folder / name
        save_problems(folder / name / "train.jsonl", sets[name])
    meta = {"kind": "harm", "thing": "1", "verb": "2"}
    general = [Problem(f"g/{a}{b}", f"{a} {b}", "", "general", meta=meta) for a in range(6) for b in range(6)]
    save_problems(folder / "problems" / "general_train.jsonl", general)
    return inputs


def test_sets_and_general_prompts_keep_their_shares_where_a_step_asks_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With pieces, as many new groups are asked as have finished: one, two, seldom all; a stop changes nothing, and a
    state of an earlier version, which has not counted, is gone on from."""
    inputs, begun, begin = write_sets(tmp_path / "inputs"), [], rl.begin_group

    def noted(problem: Problem, *others: Any, **named: Any) -> Any:
        begun.append(problem.id[0])
        return begin(problem, *others, **named)

    monkeypatch.setattr(rl, "begin_group", noted)
    settings = settings_of("grpo", steps=16, prompts=8, general_share=0.25, piece_tokens=8, max_new_tokens=60)
    settings = settings.model_copy(update={"minibatches": 1, "samples_every": 16})
    straight = run_stage(rl.run, settings, inputs, tmp_path / "straight")
    asked = collections.Counter(begun)
    assert 20 < len(begun) < 100 and asked["g"] == len(begun) // 4
    assert max(asked[name] for name in "abc") - min(asked[name] for name in "abc") <= 1
    for old in (False, True):
        out = tmp_path / f"old_{old}"
        with pytest.raises(Interrupted):
            run_stage(rl.run, settings, inputs, out, context=StopsAt(out, 7, 1))
        record = read_json(out / "state" / "state.json")
        if old:
            del record["extra"]["tally"]
            write_json_atomic(out / "state" / "state.json", record)
        run_stage(rl.run, settings, inputs, out)
        if not old:
            same_bits(straight, out)


def test_what_dynamic_sampling_has_too_much_of_is_drawn_where_there_are_several_sets(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, roll_out = [], rl.roll_out

    def noted(*arguments: Any, rng: random.Random | None, **named: Any) -> Any:
        drawn.append(rng and rng.getstate())
        return roll_out(*arguments, rng=rng, **named)

    monkeypatch.setattr(rl, "roll_out", noted)
    settings = settings_of("dapo", steps=2)
    run_stage(rl.run, settings, inputs, tmp_path / "one")
    run_stage(rl.run, settings, write_sets(tmp_path / "inputs"), tmp_path / "three")
    assert drawn == [None, None, *(python_rng(0, "surplus", step).getstate() for step in (0, 1))]


def share_of_digits(problem: Problem, response: Response) -> Verdict:
    words = (response.untagged or response.think).split()
    return Verdict("digits", Status.RIGHT, sum(word.isdigit() for word in words) / max(len(words), 1))


def digits_said(
    inputs: dict[str, Path], out: Path, monkeypatch: pytest.MonkeyPatch, *, seed: int, coin: bool, **changes: Any
) -> float:
    """The share of digits among the words of the last five steps; about half of what an untrained model says."""

    def build(weights: Weights, *_: Any, seed: int, step: int, **__: Any) -> list[Reward]:
        toss = build_rewards(weights, {}, preference_start=0.0, seed=seed, step=step)
        return [Reward("digits", each(share_of_digits), float(not coin), lambda _: True), *toss]

    monkeypatch.setattr(rl, "build_rewards", build)
    loops = GuardSettings(repetition_high=1.0, repetition_collapse=1.0)  # of digits, which are what is rewarded
    settings = settings_of("ppo", steps=30, samples=8, max_new_tokens=24, samples_every=30, guards=loops)
    settings = settings.model_copy(update={"weights": Weights(accuracy=0.0, format=0.0, random=float(coin))})
    rows = rows_of(run_stage(rl.run, settings.model_copy(update=changes), inputs, out, seed=seed))
    assert 0.3 < rows[0]["reward/digits"] < 0.7
    return sum(row["reward/digits"] for row in rows[-5:]) / 5


@pytest.mark.parametrize("seed", [0, 1])
def test_ppo_learns_what_is_rewarded_and_a_coin_teaches_nothing(
    seed: int, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert digits_said(inputs, tmp_path / "rl", monkeypatch, seed=seed, coin=False) > 0.9
    assert digits_said(inputs, tmp_path / "coin", monkeypatch, seed=seed, coin=True) < 0.75


def test_it_learns_with_all_that_is_bf16(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"precision": "bf16", "moments": "bf16"}
    assert digits_said(inputs, tmp_path / "rl", monkeypatch, seed=0, coin=False, **changes) > 0.9


def test_it_learns_from_what_an_int8_sampler_says(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What sampler and trainer differ by is more than rounding, is reported, and is corrected."""
    assert digits_said(inputs, tmp_path / "rl", monkeypatch, seed=0, coin=False, sampler="int8") > 0.9
    rows = rows_of(tmp_path / "rl")
    assert all(1e-4 < row["logprob_gap"] < 0.05 and row["max_logprob_gap"] < 1 for row in rows)
    assert all(0.9 < row["is_weight_mean"] < 1.1 for row in rows)
    for sampler in ("int8", "bf16"):
        with pytest.raises(SettingError, match=f"sampler {sampler} without importance_cap"):
            settings_of("grpo-r1", sampler=sampler, importance_cap=None)
