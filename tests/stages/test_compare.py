"""The table of a comparison: gains over the start, with Student's interval over seeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aha.errors import SettingError
from aha.stages import compare
from aha.stages.context import Context


def _evaluation(folder: Path, value: float) -> Path:
    folder.mkdir(parents=True)
    one = {"value": value, "low": value, "high": value}
    metrics = {"model": folder.name, "pass@1": one, "format": one, "length": {**one, "value": 10.0}}
    (folder / "result.json").write_text(json.dumps({"metrics": metrics}))
    return folder


def _context(folder: Path) -> Context:
    folder.mkdir()
    return Context(folder, name="controls", seed=0, run_seed=0)


def test_gains_by_hand(tmp_path: Path) -> None:
    inputs = {"start": _evaluation(tmp_path / "start", 0.1)}
    for seed, value in enumerate((0.5, 0.6, 0.7)):
        inputs[f"grpo/{seed}"] = _evaluation(tmp_path / f"grpo_{seed}", value)
    inputs["random/0"] = _evaluation(tmp_path / "random_0", 0.08)
    found = compare.run(compare.Settings(arms=("grpo", "random")), inputs, _context(tmp_path / "out")).metrics
    gain = found["arms"]["grpo"]["gain"]
    half = 4.303 * 0.1 / 3**0.5  # t of 2 degrees of freedom, standard deviation 0.1, three seeds
    assert gain == pytest.approx({"value": 0.5, "low": 0.5 - half, "high": 0.5 + half})
    assert found["arms"]["grpo"]["values"] == [0.5, 0.6, 0.7]
    assert found["arms"]["random"]["gain"]["value"] == pytest.approx(-0.02)
    assert (found["start"], found["best"], found["best_over"]) == (0.1, "grpo", {})  # of random there is one seed
    assert found["beside"].keys() == {"start"}


def test_the_best_is_compared_seed_by_seed_and_a_teacher_stands_beside(tmp_path: Path) -> None:
    inputs = {"start": _evaluation(tmp_path / "start", 0.1), "teacher": _evaluation(tmp_path / "teacher", 0.9)}
    for arm, values in (("direct_rl", (0.5, 0.6, 0.7)), ("distilled", (0.7, 0.9, 0.8))):
        for seed, value in enumerate(values):
            inputs[f"{arm}/{seed}"] = _evaluation(tmp_path / f"{arm}_{seed}", value)
    found = compare.run(compare.Settings(arms=("direct_rl", "distilled")), inputs, _context(tmp_path / "out")).metrics
    half = 4.303 * (0.01) ** 0.5 / 3**0.5  # differences 0.2, 0.3, 0.1
    wanted = {"value": 0.2, "low": 0.2 - half, "high": 0.2 + half}
    assert found["best"] == "distilled" and found["best_over"] == {"direct_rl": pytest.approx(wanted)}
    assert found["beside"]["teacher"]["pass@1"]["value"] == 0.9


def test_an_arm_without_inputs_is_named(tmp_path: Path) -> None:
    inputs = {"start": _evaluation(tmp_path / "start", 0.1)}
    with pytest.raises(SettingError, match="'ppo' has no input ppo/0"):
        compare.run(compare.Settings(arms=("ppo",)), inputs, _context(tmp_path / "out"))
