"""A comparison of arms over seeds is one table and one section, however many stages stand behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aha.report.build import build_report
from aha.report.comparisons import markdown, mean_curve
from aha.report.reading import load_run
from aha.report.summary import build_summary

GAINS = {"grpo": (0.50, 0.54), "random": (0.01, -0.03)}


@pytest.fixture
def compared(tmp_path: Path) -> Path:
    """Two arms of two seeds from one base."""
    stages: list[dict[str, Any]] = [{"name": "base", "kind": "pretrain"}, _evaluation("base")]
    inputs = {"start": "base_eval"}
    results: dict[str, Any] = {"base": {}, "base_eval": {"model": "base", "pass@1": _exact(0.1)}}
    arms: dict[str, Any] = {}
    for arm, gains in GAINS.items():
        for seed, gain in enumerate(gains):
            name = f"{arm}_{seed}"
            stages += [{"name": name, "kind": "rl", "inputs": {"init": "base"}}, _evaluation(name)]
            inputs[f"{arm}/{seed}"] = f"{name}_eval"
            results[name], results[f"{name}_eval"] = {}, {"model": name, "pass@1": _exact(0.1 + gain)}
            rows = [{"step": step, "accuracy": 0.1 + gain * step / 3, "length": 20 + seed} for step in range(4)]
            _write(tmp_path / name / "metrics.jsonl", "\n".join(map(json.dumps, rows)) + "\n")
        mean = sum(gains) / len(gains)
        gained = {"value": mean, "low": mean - 0.2, "high": mean + 0.2}
        measures = {"pass@1": _exact(0.1 + mean), "format": _exact(1.0), "length": _exact(20.5)}
        arms[arm] = {"seeds": len(gains), "gain": gained, **measures}
    stages.append({"name": "controls", "kind": "compare", "settings": {"arms": list(GAINS)}, "inputs": inputs})
    results["controls"] = {"start": 0.1, "best": "grpo", "arms": arms}
    recipe = {"recipe": "controls_tiny", "version": 1, "arguments": {"seed": 0}, "stages": stages}
    _write(tmp_path / "recipe.json", json.dumps(recipe))
    for name, metrics in results.items():
        _write(tmp_path / name / "result.json", json.dumps({"metrics": metrics}))
    ledger = {name: {"status": "done", "seconds": 1.0} for name in results}
    _write(tmp_path / "ledger.json", json.dumps({"stages": ledger}))
    return tmp_path


def _evaluation(model: str) -> dict[str, Any]:
    return {"name": f"{model}_eval", "kind": "evaluate", "inputs": {"model": model}}


def _exact(value: float) -> dict[str, float]:
    return {"value": value, "low": value, "high": value}


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_stages_of_the_arms_are_left_out_and_nothing_else(compared: Path) -> None:
    run = load_run(compared)
    assert [stage.name for stage in run.without_arms().stages] == ["base", "base_eval", "controls"]


def test_a_stage_that_serves_something_else_too_stays(compared: Path) -> None:
    recipe = json.loads((compared / "recipe.json").read_text())
    recipe["stages"].append({"name": "report_eval", "kind": "evaluate", "inputs": {"model": "grpo_1"}})
    (compared / "recipe.json").write_text(json.dumps(recipe))
    names = [stage.name for stage in load_run(compared).without_arms().stages]
    assert "grpo_1" in names and "grpo_0" not in names and "grpo_1_eval" not in names


def test_the_summary_has_the_arms_once_and_counts_all_seconds(compared: Path) -> None:
    summary = build_summary(compared)
    assert list(summary["stages"]) == ["base"]
    assert summary["curves"] == {}
    assert summary["comparisons"]["controls"]["arms"]["grpo"]["gain"]["value"] == pytest.approx(0.52)
    assert summary["seconds"] == len(load_run(compared).stages)


def test_the_table_is_sorted_by_gain(compared: Path) -> None:
    lines = markdown(build_summary(compared)["comparisons"]["controls"]).splitlines()
    assert lines[2].startswith("| GRPO | +52.0 (+32.0 to +72.0) | 62.0 (62.0–62.0) |")
    assert lines[3].startswith("| Random reward | -1.0 (-21.0 to +19.0) |")


def test_curves_are_means_over_seeds(compared: Path) -> None:
    run = load_run(compared)
    (comparison,) = run.of_kind("compare")
    rows = mean_curve(run, comparison, "grpo").rows
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert rows[3]["accuracy"] == pytest.approx(0.1 + (0.50 + 0.54) / 2)
    assert rows[0]["length"] == 20.5


def test_the_page_shows_the_comparison_and_not_its_stages(compared: Path) -> None:
    page = build_report(compared).read_text()
    assert '<section id="comparison">' in page and "+52.0 (+32.0 to +72.0)" in page
    assert page.count("grpo_1") == 1  # among the inputs in the comparison's settings
    assert "11 of 11 stages" in page


def test_a_comparison_still_running_shows_its_curves(compared: Path) -> None:
    (compared / "controls" / "result.json").unlink()
    ledger = json.loads((compared / "ledger.json").read_text())
    del ledger["stages"]["controls"]
    (compared / "ledger.json").write_text(json.dumps(ledger))
    page = build_report(compared).read_text()
    assert "have not all run yet" in page and "accuracy on training prompts" in page


def test_what_rollouts_label_and_a_step_scorer_learns_is_a_finding(compared: Path) -> None:
    recipe = json.loads((compared / "recipe.json").read_text())
    recipe["stages"].append({"name": "scorer", "kind": "process_reward", "inputs": {"policy": "base"}})
    (compared / "recipe.json").write_text(json.dumps(recipe))
    ledger = json.loads((compared / "ledger.json").read_text())
    ledger["stages"]["scorer"] = {"status": "done", "seconds": 1.0}
    (compared / "ledger.json").write_text(json.dumps(ledger))
    share = {"value": 0.95, "low": 0.9, "high": 0.97}
    metrics = {"steps": 7552, "agreement/test": share, "accuracy": {**share, "value": 0.8}, "accuracy_wrong": share}
    _write(compared / "scorer" / "result.json", json.dumps({"metrics": {**metrics, "seconds": 3.0}}))
    summary = build_summary(compared)
    assert summary["scorers"] == {"scorer": metrics}
    found = next(finding for finding in summary["findings"] if finding["key"] == "step_labels")
    assert found["outcome"] == "appeared" and "95.0 % of the wrong ones" in found["sentence"]
    assert "exact check in 95.0 % (90.0 to 97.0)" in found["sentence"] and "7,552 steps" in found["sentence"]
    metrics["agreement/test"] = {**share, "value": 0.89}
    _write(compared / "scorer" / "result.json", json.dumps({"metrics": metrics}))
    again = [finding for finding in build_summary(compared)["findings"] if finding["key"] == "step_labels"]
    assert [finding["outcome"] for finding in again] == ["did not appear"]
