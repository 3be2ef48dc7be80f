"""A fault planted in a tiny stage is found where it is and answered as configured, and the metrics say so.

The guards' arithmetic is tested in tests/train/test_guards.py; here they stand in the loop.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_rl import SETTINGS, TEMPLATE, plant, rows_of, run_stage, sums, write_inputs

from aha.config import override
from aha.errors import DataError, InvariantError, SettingError, VerifierError
from aha.records import Completion, FinishReason, Problem, Status, Verdict
from aha.reward import early
from aha.reward.response import Response
from aha.reward.rubric import Reward, each
from aha.rollout.native.engine import NativeEngine
from aha.stages import learn, problems, rl
from aha.stages.context import Context
from aha.stages.models import load_policy
from aha.stages.rewarding import Weights
from aha.tasks import number

THREE = rl.Settings(**{**dict(SETTINGS), "steps": 3, "algorithm": "grpo", "minibatches": 1, "rollback_every": 1})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_inputs(tmp_path_factory.mktemp("tiny"))


class Told(Context):
    """Keeps what a person would be told."""

    def __init__(self, out: Path) -> None:
        self.notes: list[str] = []
        super().__init__(out, name=out.name, seed=0, run_seed=0, send=self._hear)

    def _hear(self, message: tuple[Any, ...]) -> None:
        if message[0] == "note":
            self.notes.append(message[1])


def guarded(stage: Path) -> list[tuple[int, str, str]]:
    """(step, what, action) of everything that the guards found, as metrics.jsonl has it."""
    return [(row["step"], found["what"], found["action"]) for row in rows_of(stage) for found in row.get("guards", [])]


def weights_of(stage: Path) -> bytes:
    return (stage / "model" / "model.safetensors").read_bytes()


def always(token_ids: tuple[int, ...]) -> Callable[..., list[list[Completion]]]:
    """A sampler whose every completion is ``token_ids``, as one that has collapsed."""

    def generate(engine: NativeEngine, prompts: Any, seeds: Any, params: Any, **_: Any) -> list[list[Completion]]:
        said = Completion(token_ids, (-1.0,) * len(token_ids), FinishReason.END, engine.policy_version)
        return [[said for _ in own] for own in seeds]

    return generate


# Faults of the machinery: the stage stops, with weights that are still good


def test_a_gradient_that_is_not_a_number_stops_before_the_weights_change(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies, passes = [], []

    def load(folder: Path) -> Any:
        policies.append(load_policy(folder))
        policies[0].decoder.model.norm.weight.register_hook(spoil)
        return policies[0]

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        passes.append(1)
        return gradient * math.nan if len(passes) > 1 else gradient

    monkeypatch.setattr(rl, "load_policy", load)
    with pytest.raises(InvariantError, match=r"step 2: update not taken, the weights are unchanged: micro-batch 0 of"):
        run_stage(rl.run, THREE, inputs, tmp_path / "rl")
    assert [row["step"] for row in rows_of(tmp_path / "rl")] == [1]
    assert all(parameter.isfinite().all() for parameter in policies[0].decoder.parameters())


def test_a_sampler_that_keeps_its_old_weights_is_found_at_the_next_step(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = NativeEngine.load_weights

    def load_once(engine: NativeEngine, decoder: Any, version: int) -> None:
        if version == 0:
            load(engine, decoder, version)

    monkeypatch.setattr(NativeEngine, "load_weights", load_once)
    with pytest.raises(InvariantError, match=r"sampler weights \w+ are not trainer weights \w+ after .* version 1"):
        run_stage(rl.run, THREE, inputs, tmp_path / "rl")
    assert len(rows_of(tmp_path / "rl")) == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda groups: [groups[0][:-1], *groups[1:]], "step 1: group of problem 'sum/.*' has 2 completions, not 3"),
        (lambda groups: groups[1:], "step 1: engine returned 3 groups for 4 problems"),
    ],
)
def test_a_wrong_group_is_found(
    fault: Callable[[Any], Any],
    message: str,
    inputs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generate = NativeEngine.generate
    monkeypatch.setattr(NativeEngine, "generate", lambda *args, **more: fault(generate(*args, **more)))
    with pytest.raises(InvariantError, match=message):
        run_stage(rl.run, THREE, inputs, tmp_path / "rl")


# Faults of the data and of the template


@pytest.mark.parametrize("opened", ["<answer>", "<think> </think>"])
def test_a_template_that_leaves_no_room_for_a_right_answer_stops_before_anything_is_trained(
    opened: str, tmp_path: Path
) -> None:
    with pytest.raises(InvariantError, match="a known-good answer gets .*; correct the template, the tags"):
        run_stage(rl.run, SETTINGS, write_inputs(tmp_path, template=f"{TEMPLATE} {opened}"), tmp_path / "rl")
    assert not (tmp_path / "rl" / "metrics.jsonl").exists()


def test_a_template_that_opens_the_thinking_is_read_with_its_completion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The known bug is a format reward of 0 for ever, since no completion opens what is open already."""
    inputs = write_inputs(tmp_path, template=f"{TEMPLATE} <think>")
    tokenizer = load_policy(inputs["init"] / "model").tokenizer
    said = (*tokenizer.encode("1 </think> <answer> 3 </answer>"), tokenizer.eos_id)
    monkeypatch.setattr(NativeEngine, "generate", always(said))
    settings = SETTINGS.model_copy(update={"algorithm": "dr-grpo", "weights": Weights()})
    assert rows_of(run_stage(rl.run, settings, inputs, tmp_path / "rl"))[0]["reward/format"] == 1.0


def test_a_template_that_never_shows_the_question_is_refused(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path)
    (inputs["init"] / "model" / "aha.json").write_text(json.dumps({"template": "1 + 2 ="}), encoding="utf-8")
    with pytest.raises(SettingError, match=r"0 places for the question, needs one '\{question\}': '1 \+ 2 ='"):
        run_stage(rl.run, SETTINGS, inputs, tmp_path / "rl")


@pytest.mark.parametrize(
    ("gold", "message"),
    [("fourteen", r"row 3: the checker of task 'number' does not accept .* 'fourteen'"), ("", "row 3: no 'answer'")],
)
def test_a_gold_that_no_answer_can_equal_is_named(gold: str, message: str, tmp_path: Path) -> None:
    """By the stage that reads a person's file, and by the one that trains on it."""
    rows = [{"problem": f"{i} + 1", "answer": gold if i == 2 else i + 1} for i in range(80)]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(DataError, match=f"mine.jsonl, {message}"):
        run_stage(problems.run, problems.Settings(source=path), {}, tmp_path / "problems")
    asked = [*sums()[:2], Problem("bad", "1 + 1", gold, "number"), *sums()[2:]]
    with pytest.raises(DataError, match=f"train.jsonl, {message}"):
        run_stage(rl.run, SETTINGS, write_inputs(tmp_path, problems=asked), tmp_path / "rl")


# Faults of rewards


def test_a_verifier_that_always_raises_stops_before_anything_is_sampled(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(text: str) -> None:
        raise RecursionError("too deep")

    load_problems = rl.load_problems

    def load(path: Path) -> list[Problem]:
        found = load_problems(path)
        monkeypatch.setattr(number, "parse_number", fail)  # from here on: the golds have been looked at
        return found

    monkeypatch.setattr(rl, "load_problems", load)
    monkeypatch.setattr(NativeEngine, "generate", lambda *_, **__: pytest.fail("something was sampled"))
    with pytest.raises(VerifierError, match=r"reward 'accuracy' failed on 1 of 1 .*RecursionError\('too deep'\)"):
        run_stage(rl.run, SETTINGS, inputs, tmp_path / "rl")


def odd(value: object) -> Callable[[Problem, Response], Any]:
    return lambda problem, response: value


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (odd(Verdict("mine", Status.RIGHT, math.nan)), r"reward 'mine' gives nan, which is no finite number"),
        (odd(Verdict("mine", Status.RIGHT, "1.0")), r"reward 'mine' gives '1.0', which is no finite number"),  # type: ignore[arg-type]
        (odd("right"), r"reward 'mine' gives 'right', which is no Verdict"),
        (odd(math.nan), r"reward 'mine' gives nan, which is no Verdict"),
        (odd(None), r"reward 'mine' gives None, which is no Verdict"),
    ],
)
def test_a_reward_that_gives_no_number_stops_the_step(
    judge: Callable[[Problem, Response], Any],
    message: str,
    inputs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rl, "build_rewards", lambda *_, **__: [Reward("mine", each(judge), 1.0, lambda problem: True)])
    with pytest.raises(VerifierError, match=rf"step 1: reward 'mine' failed on 12 of 12 .*{message}"):
        run_stage(rl.run, SETTINGS, inputs, tmp_path / "rl")
    assert not (tmp_path / "rl" / "metrics.jsonl").exists()


def test_a_verifier_that_fails_now_and_then_is_masked_and_stops_the_run_when_it_leaks(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 of 24 from the second step on: 4 % of a step are let pass, 2 % of all steps so far are not."""
    judged = []

    def judge(asked: Sequence[Problem], said: Sequence[Response]) -> list[Verdict]:
        if len(asked) == 1:  # the known-good answer
            return [Verdict("accuracy", Status.RIGHT, 1.0)]
        judged.append(len(asked))
        first = Verdict("accuracy", Status.WRONG if len(judged) == 1 else Status.ERROR, 0.0, "out of memory")
        return [first, *[Verdict("accuracy", Status.WRONG, 0.0)] * (len(asked) - 1)]

    monkeypatch.setattr(early, "judge_accuracy", judge)
    settings = THREE.model_copy(update={"prompts": 8})
    with pytest.raises(InvariantError, match="stopped by a guard at step 2: verifier_errors 0.02083 .limit 0.02"):
        run_stage(rl.run, settings, inputs, tmp_path / "rl")
    assert [row["verifier_errors"] for row in rows_of(tmp_path / "rl")] == [0, 1]
    assert (2, "verifier_errors", "stop") in guarded(tmp_path / "rl")
    judged.clear()
    out = run_stage(rl.run, override(settings, "guards.verifier_errors", "0.1"), inputs, tmp_path / "lenient")
    assert [row["verifier_errors"] for row in rows_of(out)] == [0, 1, 1]


# Thresholds of the guards, in the loop


@pytest.mark.parametrize(
    ("values", "what", "advice"),
    [
        ({"entropy": 0.01}, "entropy", "exploration is over"),
        ({"kl": 2.0}, "kl", "far from its reference"),
        ({"mismatch_kl": 0.05}, "mismatch_kl", "disagree on the same weights"),
        ({"repetition": 0.3}, "repetition", "end in loops"),
        ({"truncated": 0.4}, "truncated", "raise max_new_tokens"),
        ({"clip_high": 0.05}, "clip_high", "left the rollouts behind"),
    ],
)
def test_a_warning_is_said_and_written_once_and_the_stage_goes_on(
    values: dict[str, float],
    what: str,
    advice: str,
    inputs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quiet = {"entropy": 1.0, "kl": 0.0, "mismatch_kl": 0.0, "repetition": 0.0, "truncated": 0.0, "clip_high": 0.0}
    planted = rl.step_metrics

    def fault(step: int, *arguments: Any, **named: Any) -> dict[str, float]:
        return planted(step, *arguments, **named) | quiet | (values if step in (2, 3) else {})

    monkeypatch.setattr(rl, "step_metrics", fault)
    out = tmp_path / "rl"
    told = Told(out)
    run_stage(rl.run, THREE, inputs, out, context=told)
    assert guarded(out) == [(2, what, "warn")]
    (found,) = rows_of(out)[1]["guards"]
    assert found["says"].startswith(f"step 2: {what} {values[what]:.4g} (limit ") and advice in found["says"]
    assert told.notes == [f"warn: {found['says']}"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kl": 20.0}, "step 2: kl 20 .limit 10.: the policy is far"),
        ({"mismatch_kl": 0.2}, "step 2: mismatch_kl 0.2 .limit 0.1.: sampler and trainer disagree"),
        ({"loss": math.nan}, "step 2: loss nan .limit inf.: weights or data are damaged"),
        ({"value_loss": math.inf}, "step 2: value_loss inf"),
    ],
)
def test_what_cannot_be_mended_stops_the_stage_and_stays_in_its_files(
    values: dict[str, float],
    message: str,
    inputs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch, 2, **values)
    out = tmp_path / "rl"
    with pytest.raises(InvariantError, match=f"stopped by a guard at {message}"):
        run_stage(rl.run, THREE, inputs, out)
    assert guarded(out)[-1] == (2, *values, "stop") and len(rows_of(out)) == 2
    assert (out / "samples" / "step_000002.parquet").exists() and not (out / "model").exists()


ROLLED_BACK = {
    "repetition": ({"repetition": 0.9}, {}),
    # With a trend of one step: the entropy is under a tenth of the first and the accuracy under the one before.
    "entropy": ({"entropy": 0.06, "accuracy": -1.0}, {"guards.trend": "1"}),
}


@pytest.mark.parametrize("what", ROLLED_BACK)
def test_a_collapse_goes_back_to_the_last_good_weights_with_half_the_rate(
    what: str, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, changes = ROLLED_BACK[what]
    settings = THREE
    for path, text in changes.items():
        settings = override(settings, path, text)
    good = run_stage(rl.run, settings.model_copy(update={"steps": 1}), inputs, tmp_path / "good")
    plant(monkeypatch, 2, **values)
    out = tmp_path / "rl"
    told = Told(out)
    run_stage(rl.run, settings.model_copy(update={"steps": 2}), inputs, out, context=told)
    assert guarded(out) == [(2, what, "rollback")]
    assert weights_of(out) == weights_of(good)
    assert told.notes[0].startswith(f"rollback: step 2: {what}")
    assert told.notes[1] == "rolled back to the weights of step 1; learning rate x 0.5"
    run_stage(rl.run, settings, inputs, tmp_path / "on")
    assert rows_of(tmp_path / "on")[2]["lr"] == 0.5 * rows_of(tmp_path / "on")[1]["lr"]
    assert not (out / "good").exists()


def test_going_back_does_not_help_for_ever(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, 1, repetition=0.9)
    with pytest.raises(InvariantError, match="at step 1: repetition 0.9 .*; no earlier state was kept"):
        run_stage(rl.run, THREE, inputs, tmp_path / "first")
    monkeypatch.undo()
    plant(monkeypatch, 2, 3, 4, 5, 6, repetition=0.9)
    with pytest.raises(InvariantError, match="at step 5: repetition 0.9 .*; 3 rollbacks have not helped"):
        run_stage(rl.run, THREE.model_copy(update={"steps": 6}), inputs, tmp_path / "again")


def test_a_batch_is_left_out_when_its_gradient_spikes_and_the_row_says_so(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One mini-batch of several, which the step's mean norm would not show."""
    left_out: list[list[float]] = [[]]
    update, metrics = learn.policy_step, rl.step_metrics

    def watched(*arguments: Any, **named: Any) -> dict[str, float]:
        found = update(*arguments, **named)
        left_out[-1].append(found["skipped"])
        return found

    def next_step(*arguments: Any, **named: Any) -> dict[str, float]:
        left_out.append([])
        return metrics(*arguments, **named)

    monkeypatch.setattr(learn, "policy_step", watched)
    monkeypatch.setattr(rl, "step_metrics", next_step)
    settings = THREE.model_copy(update={"steps": 4, "minibatches": 4})
    settings = override(override(settings, "guards.grad_norm_factor", "1.5"), "guards.grad_norm_least", "1")
    out = run_stage(rl.run, settings, inputs, tmp_path / "rl")
    (step,) = (number for number, updates in enumerate(left_out, 1) if any(updates))
    assert left_out[step - 1].count(1.0) == 1 and (step, "grad_norm_max", "skip") in guarded(out)
    before, now = rows_of(out)[: step - 1], rows_of(out)[step - 1]
    assert now["grad_norm"] < 1.5 * statistics.median(row["grad_norm"] for row in before) < now["grad_norm_max"]


def test_a_spike_leaves_the_weights_as_they_were(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a division by the deviation a reward of a thousand is a gradient of a thousand."""
    build = rl.build_rewards

    def spiked(*arguments: Any, step: int, **named: Any) -> list[Reward]:
        rewards = build(*arguments, step=step, **named)
        return [Reward(r.name, r.judge, 1000 * r.weight, r.applies) for r in rewards] if step == 1 else rewards

    settings = override(THREE.model_copy(update={"algorithm": "dr-grpo"}), "guards.grad_norm_least", "1")
    good = run_stage(rl.run, settings.model_copy(update={"steps": 1}), inputs, tmp_path / "good")
    monkeypatch.setattr(rl, "build_rewards", spiked)
    out = run_stage(rl.run, settings.model_copy(update={"steps": 2}), inputs, tmp_path / "rl")
    assert guarded(out) == [(2, "grad_norm_max", "skip")]
    assert weights_of(out) == weights_of(good)


def test_a_policy_that_says_one_thing_only_is_found_by_its_loops_and_by_the_signal_that_is_gone(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One word again and again."""
    monkeypatch.setattr(NativeEngine, "generate", always((8,) * 20 + (1,)))
    settings = override(THREE.model_copy(update={"algorithm": "dapo"}), "guards.signal_steps", "2")
    settings = override(settings, "guards.repetition_collapse", "1.0")
    out = run_stage(rl.run, settings, inputs, tmp_path / "rl")
    assert guarded(out) == [(1, "repetition", "warn"), (2, "groups_kept", "warn")]
    assert "data exhausted: no group differed for 2 steps" in rows_of(out)[1]["guards"][0]["says"]
    assert weights_of(out) == weights_of(inputs["init"])
