from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from tiny_training import sample_rows, tiny_config

from aha.errors import CheckpointError
from aha.model.decoder import build_decoder
from aha.objective.algorithms import ALGORITHMS
from aha.objective.weights import token_weights
from aha.train import state as train_state
from aha.train.batch import collate_policy, with_reference
from aha.train.optimizer import Moments, build_adamw
from aha.train.policy_step import compute_logprobs, policy_step
from aha.train.state import TrainState

GRPO = ALGORITHMS["grpo"]


def fresh(seed: int = 0, *, layers: int = 2, moments: Moments = "float32") -> TrainState:
    decoder = build_decoder(tiny_config(layers=layers), seed=seed)
    reference = build_decoder(tiny_config(layers=layers), seed=seed + 50)
    optimizer = build_adamw(decoder, lr=1e-2, moments=moments)
    return TrainState(0, decoder, optimizer, {"seen": []}, {"reference": reference})


def advance(state: TrainState, steps: int) -> None:
    for _ in range(steps):
        rows = sample_rows(state.step, [(3, 4), (2, 2), (4, 5)])
        batches = collate_policy(rows, weights=token_weights([4, 2, 5], "sequence"), token_budget=8)
        reference = state.frozen["reference"]
        batches = with_reference(batches, compute_logprobs(reference, batches))  # type: ignore[arg-type]
        policy_step(
            state.decoder, state.optimizer, batches, algorithm=GRPO, num_sequences=3, lr=1e-2, max_grad_norm=1.0  # type: ignore[arg-type]
        )
        state.step += 1
        state.extra["seen"].append(state.step)


def bits(state: TrainState) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state._collect()[0].items()}


def assert_same(a: TrainState, b: TrainState) -> None:
    assert (a.step, a.extra) == (b.step, b.extra)
    left, right = bits(a), bits(b)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("moments", ["float32", "bf16"])
def test_stop_and_resume_gives_the_bits_of_a_straight_run(tmp_path: Path, moments: Moments) -> None:
    straight = fresh(moments=moments)
    advance(straight, 5)
    stopped = fresh(moments=moments)
    advance(stopped, 3)
    stopped.save(tmp_path / "state")
    resumed = fresh(seed=1, moments=moments)
    resumed.load(tmp_path / "state")
    assert_same(resumed, stopped)
    advance(resumed, 2)
    assert_same(resumed, straight)
    assert len(bits(straight)) > 3 * len(list(straight.decoder.parameters())), "weights, two moments, steps, reference"


def test_loading_resets_an_optimiser_that_has_already_moved(tmp_path: Path) -> None:
    state = fresh()
    state.save(tmp_path / "state")  # before any step: moments of 0
    moved = fresh(seed=1)
    advance(moved, 2)
    moved.load(tmp_path / "state")
    assert_same(moved, state)
    assert not any(moment.any() for own in moved.optimizer.state.values() for moment in own.values())


def test_loading_a_state_without_moments_leaves_none(tmp_path: Path) -> None:
    """An optimiser that makes its moments with its first step has none to save before."""
    before, moved = fresh(), fresh(seed=1)
    before.optimizer = torch.optim.AdamW(before.decoder.parameters(), lr=1e-2)
    before.save(tmp_path / "state")
    advance(moved, 1)
    moved.load(tmp_path / "state")
    assert_same(moved, before)


def test_saving_again_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    state = fresh()
    state.save(tmp_path / "state")
    advance(state, 1)
    state.save(tmp_path / "state")
    other = fresh(seed=1)
    other.load(tmp_path / "state")
    assert_same(other, state)
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("failing_call", [1, 2])
def test_a_crash_while_saving_leaves_a_whole_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_call: int
) -> None:
    state = fresh()
    state.save(tmp_path / "state")
    before = fresh(seed=1)
    before.load(tmp_path / "state")
    advance(state, 1)
    rename, calls = os.rename, []

    def crash(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == failing_call:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", crash)
    with pytest.raises(KeyboardInterrupt):
        state.save(tmp_path / "state")
    survivor = fresh(seed=2)
    survivor.resume(tmp_path / "state")  # what a stage calls
    assert_same(survivor, before)
    monkeypatch.undo()
    state.save(tmp_path / "state")
    survivor.load(tmp_path / "state")
    assert_same(survivor, state)


def test_a_second_crash_still_finds_the_state_of_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = fresh()
    state.save(tmp_path / "state")
    (tmp_path / "state").rename(tmp_path / ".state.old")  # as the first one left it, between the two renames

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train_state, "save_file", crash)
    with pytest.raises(KeyboardInterrupt):
        fresh(seed=1).save(tmp_path / "state")
    survivor = fresh(seed=2)
    survivor.resume(tmp_path / "state")
    assert_same(survivor, state)


def test_a_stage_without_a_state_starts_as_it_was_built(tmp_path: Path) -> None:
    state = fresh()
    state.resume(tmp_path / "state")
    assert_same(state, fresh())


def test_missing_state(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="missing or cut off"):
        fresh().load(tmp_path / "state")


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_truncated_state_is_refused_and_changes_nothing(tmp_path: Path, file: str, keep: float) -> None:
    state = fresh()
    advance(state, 1)
    state.save(tmp_path / "state")
    whole = (tmp_path / "state" / file).read_bytes()
    (tmp_path / "state" / file).write_bytes(whole[: int(len(whole) * keep)])
    other, untouched = fresh(seed=1), fresh(seed=1)
    with pytest.raises(CheckpointError, match="state"):
        other.load(tmp_path / "state")
    assert_same(other, untouched)


def test_two_files_of_different_states_are_refused(tmp_path: Path) -> None:
    state = fresh()
    state.save(tmp_path / "state")
    record = tmp_path / "state" / "state.json"
    record.write_text(record.read_text().replace('"tensors": ', '"tensors": 1'))
    with pytest.raises(CheckpointError, match="do not belong together"):
        state.load(tmp_path / "state")


def test_state_of_another_model_names_the_tensor(tmp_path: Path) -> None:
    fresh().save(tmp_path / "state")
    with pytest.raises(CheckpointError, match=r"decoder/model\.layers\.1\..* in the state but not the model"):
        fresh(layers=1).load(tmp_path / "state")
    wide = fresh()
    wide.decoder = build_decoder(tiny_config(vocab=17), seed=0)
    wide.optimizer = build_adamw(wide.decoder, lr=1e-2)
    with pytest.raises(CheckpointError, match=r"embed_tokens.weight is \(13, 8\) torch.float32, not \(17, 8\)"):
        wide.load(tmp_path / "state")
