"""A made-up run is reported: figures, sections, valid and offline HTML, and the same for runs that are not finished."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from aha.errors import DataError
from aha.evaluate.paired import compare_paired
from aha.evaluate.preference import pair_report
from aha.report.build import build_report
from aha.report.findings import ABSENT, APPEARED, NOISE, NOT_RUN, SHORT, _Difference
from aha.report.plots import _figure, _legend, save_readme_figure
from aha.report.reading import Measure, load_run, rolling_mean
from aha.report.style import STYLE
from aha.report.summary import build_summary, curve_numbers
from aha.report.tables import markdown_stage_table

WriteRun = Callable[..., Path]

VOID = {"meta", "link", "img", "br", "hr", "input"}
SECTIONS = [
    "curve",
    "stages",
    "findings",
    "distillation",
    "votes",
    "rl",
    "dynamics",
    "tasks",
    "agreement",
    "guards",
    "samples",
    "advantages",
    "recipe",
    "settings",
]


class Checker(HTMLParser):
    """Fails on a tag that is closed out of order; collects ids, references and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self._collect(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._collect(attrs)

    def _collect(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"src", "href", "xlink:href", "action", "data", "poster", "srcset"}:
                self.references.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def read_page(path: Path) -> tuple[Checker, str]:
    html = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return checker, html


def without_seconds(entry: Any) -> Any:
    if isinstance(entry, dict):
        return {key: without_seconds(value) for key, value in entry.items() if key != "seconds"}
    return [without_seconds(value) for value in entry] if isinstance(entry, list) else entry


def finding(summary: dict[str, Any], key: str) -> dict[str, Any]:
    return next(entry for entry in summary["findings"] if entry["key"] == key)


def change_measure(run: Path, model: str, metric: str, value: float, spread: float) -> None:
    path = run / f"{model}_eval" / "result.json"
    result = json.loads(path.read_text())
    result["metrics"][metric] = {"value": value, "low": value - spread, "high": value + spread}
    path.write_text(json.dumps(result))


@pytest.mark.parametrize("arguments", [{}, {"recipe": "r1_real"}, {"finished": []}], ids=["tiny", "real", "nothing"])
def test_page_is_well_formed_and_needs_nothing_from_outside(write_run: WriteRun, arguments: dict[str, Any]) -> None:
    checker, html = read_page(build_report(write_run(**arguments)))
    assert len(checker.ids) == len(set(checker.ids))
    assert all(reference.startswith("#") and reference[1:] in checker.ids for reference in checker.references)
    assert set(re.findall(r"url\(#([^)]+)\)", html)) <= set(checker.ids)
    assert not re.search(r"https?://|@import|<script|<link", html)
    assert not re.search(r"\b(nan|inf|None)\b", " ".join(checker.text))
    assert "#0072b2" not in html.partition("</style>")[2]  # figures take the page's colours, so that it can be dark


def test_finished_run_has_every_section_and_every_model(write_run: WriteRun) -> None:
    checker, html = read_page(build_report(write_run()))
    assert [key for key in checker.ids if key in SECTIONS] == SECTIONS
    text = " ".join(checker.text)
    for label in ("Base", "R1-Zero", "Random reward", "Dev1", "Dev2", "Dev3", "R1", "Student, direct RL"):
        assert label in text
    assert "not run yet" not in text
    assert "<b>&lt;b&gt;" not in html and "&lt;think&gt;" in html  # samples are text, never markup
    assert html.count('title="advantage') > 0
    assert "; unweighted parts: accuracy " in text and ">accuracy 1, format 1 · " in html  # an evaluation has no reward
    assert "mean gap of the worst step, nats" in text and not re.search(r"{\w+}", text)


def test_summary_file_is_what_is_returned_and_repeats(write_run: WriteRun) -> None:
    run, slower = write_run(), write_run(slow=2.0)
    summary = build_summary(run)
    assert json.loads((run / "summary.json").read_text()) == summary == build_summary(run)
    other = build_summary(slower)
    assert without_seconds(other) == without_seconds(summary)
    assert other["seconds"] == pytest.approx(2 * summary["seconds"])
    ledger = json.loads((run / "ledger.json").read_text())["stages"]
    assert summary["stages"]["r1_zero"]["seconds"] == ledger["r1_zero"]["seconds"]
    assert summary["seconds"] == pytest.approx(sum(entry["seconds"] for entry in ledger.values()))
    measured = json.loads((run / "base_eval" / "result.json").read_text())["metrics"]
    assert summary["stages"]["base"]["pass@1"] == measured["pass@1"]


def test_length_ratio_is_last_five_over_lowest_five(write_run: WriteRun) -> None:
    run = write_run()
    lengths = [20.0, 10, 10, 10, 10, 5, 5, 15, 20, 25, 30, 30, 30, 30, 30]
    rows = "".join(json.dumps({"step": step, "length": length}) + "\n" for step, length in enumerate(lengths, 1))
    (run / "r1_zero" / "metrics.jsonl").write_text(rows)
    stage = load_run(run).stage("r1_zero")
    assert stage is not None
    numbers = curve_numbers(stage)
    assert numbers["length_lowest"] == pytest.approx(8.0)  # 10, 10, 10, 5, 5
    assert numbers["length_lowest_step"] == 7
    assert numbers["length_end"] == pytest.approx(30.0)
    assert numbers["length_ratio"] == pytest.approx(3.75)
    sentence = finding(build_summary(run), "length_r1_zero")["sentence"]
    assert "×3.75 its lowest" in sentence and "a dip and then growth" in sentence


def test_agreement_is_of_steps_whose_sampler_holds_the_trainers_weights(write_run: WriteRun) -> None:
    run = write_run()
    gaps = [(0.0, 2e-6), (1.0, 0.7), (2.0, 0.9), (0.0, 3e-6)]
    rows = [{"step": i, "staleness": age, "max_logprob_gap": gap} for i, (age, gap) in enumerate(gaps, 1)]
    (run / "r1_zero" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage = load_run(run).stage("r1_zero")
    assert stage is not None and curve_numbers(stage)["max_logprob_gap"] == 3e-6


def test_what_guards_found_is_listed_with_step_action_and_words(write_run: WriteRun) -> None:
    run = write_run()
    _, html = read_page(build_report(run))
    section = html.partition('<section id="guards">')[2].partition("</section>")[0]
    assert "Nothing was found in R1-Zero (80 steps), Random reward (80 steps)" in section and "<table>" not in section
    path = run / "r1_zero" / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[4]["guards"] = [{"what": "kl", "action": "warn", "says": "step 5: kl 1.2 (limit 1): far & wide"}]
    for row in rows[10:70]:
        row["guards"] = [{"what": "grad_norm_max", "action": "skip", "says": f"step {row['step']}: a spike"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, html = read_page(build_report(run))
    section = html.partition('<section id="guards">')[2].partition("</section>")[0]
    line = '<th scope="row">5</th><td>kl</td><td>warn</td><td class="says">kl 1.2 (limit 1): far &amp; wide</td>'
    assert line in section and "Nothing was found in Random reward (80 steps)" in section
    assert section.count("<td>skip</td>") == 49 and "11 more are in its metrics" in section


def test_a_preference_model_shows_its_accuracy_calibration_and_length_bias(write_run: WriteRun) -> None:
    run = write_run()
    assert "How good the preference models are" not in read_page(build_report(run))[1]
    path = run / "helpful" / "result.json"
    result = json.loads(path.read_text())
    result["metrics"]["held_out"] = pair_report(
        [2.0, 0.5, 1.0, 3.0], [0.0, 1.0, -1.0, 2.5], [5, 9, 4, 7], [2, 3, 8, 7]
    )
    path.write_text(json.dumps(result))
    checker, html = read_page(build_report(run))
    text = " ".join(checker.text)
    assert "How good the preference models are" in text and "75.0 % (30.1 to 95.4)" in text
    assert html.count(": reliability") >= 2  # the figure's words for those who cannot see it, and its caption


def test_reflection_words_are_compared_by_tenths(write_run: WriteRun) -> None:
    run = write_run()
    for first, last, outcome in ((0.1, 0.6, APPEARED), (0.6, 0.1, ABSENT), (0.5, 0.5, ABSENT)):
        values = [first] * 2 + [9.0] * 16 + [last] * 2
        rows = "".join(json.dumps({"step": step, "reflection": value}) + "\n" for step, value in enumerate(values))
        (run / "r1_zero" / "metrics.jsonl").write_text(rows)
        found = finding(build_summary(run), "reflection_r1_zero")
        assert found["outcome"] == outcome
    assert "stayed about as frequent: 0.5 a response in the first tenth of the steps, 0.5 in" in found["sentence"]


@pytest.mark.parametrize(
    ("before", "after", "spread", "outcome"),
    [(0.9, 0.95, 0.01, APPEARED), (0.9, 0.85, 0.01, ABSENT), (0.9, 0.92, 0.02, NOISE), (0.9, 0.88, 0.02, NOISE)],
)
def test_last_stage_is_judged_by_its_intervals(
    write_run: WriteRun, before: float, after: float, spread: float, outcome: str
) -> None:
    run = write_run()
    change_measure(run, "dev3", "pass@1", before, spread)
    change_measure(run, "r1", "pass@1", after, spread)
    judged = finding(build_summary(run), "last_stage_accuracy")
    assert judged["outcome"] == outcome
    assert (NOISE in judged["sentence"]) == (outcome == NOISE)
    assert ("The last stage lost" in judged["sentence"]) == (outcome == ABSENT)


def test_scores_of_each_problem_tell_a_difference_where_the_intervals_overlap(write_run: WriteRun) -> None:
    run = write_run()
    for model, value in (("dev3", 0.54), ("r1", 0.57)):
        change_measure(run, model, "preference", value, 0.02)
    assert finding(build_summary(run), "last_stage_preference")["outcome"] == NOISE
    scores = [0.01 * (i % 50) for i in range(100)]
    for model, gains in (("dev3", [0.0] * 100), ("r1", [0.02 + 0.02 * (i % 2) for i in range(100)])):
        path = run / f"{model}_eval" / "by_problem.json"
        path.write_text(json.dumps({"preference": [a + b for a, b in zip(scores, gains, strict=True)]}))
    found = finding(build_summary(run), "last_stage_preference")
    assert found["outcome"] == APPEARED and "(+2.8 points to +3.2 points, problem by problem)" in found["sentence"]
    path.write_text(json.dumps({"preference": scores[:-1]}))  # of other problems: not compared
    assert finding(build_summary(run), "last_stage_preference")["outcome"] == NOISE


def keep_scores(run: Path, model: str, **scores: list[float]) -> None:
    (run / f"{model}_eval" / "by_problem.json").write_text(json.dumps(scores))


def test_one_problem_has_no_interval_and_none_is_said() -> None:
    paired = compare_paired([0.2], [0.9])
    said = _Difference(Measure(0.2, 0.0, 0.5), Measure(0.9, 0.5, 1.0), paired).words()
    assert said == "+70.0 points, within noise"


@pytest.mark.parametrize(
    ("gain", "control", "caveat"),
    [(0.07, ABSENT, "is fair in that"), (0.0, APPEARED, "that failed"), (-0.07, APPEARED, "that failed")],
)
def test_controls_are_judged_problem_by_problem_as_models_are(
    write_run: WriteRun, gain: float, control: str, caveat: str
) -> None:
    run = write_run()
    scores = [0.1 + 0.008 * (i % 50) for i in range(100)]
    for start, end in (("base", "random_reward"), ("student_base", "student_rl")):
        for model, value, own in ((start, 0.3, scores), (end, 0.3 + gain, [score + gain for score in scores])):
            change_measure(run, model, "pass@1", value, 0.05)  # the intervals overlap
            keep_scores(run, model, **{"pass@1": own})
    summary = build_summary(run)
    found = finding(summary, "random_reward")
    assert found["outcome"] == control and (NOISE in found["sentence"]) == (gain == 0)
    assert "problem by problem" in found["sentence"]
    assert caveat in finding(summary, "distillation")["sentence"]
    assert finding(summary, "student_rl")["outcome"] == {0.07: APPEARED, 0.0: NOISE, -0.07: ABSENT}[gain]


def test_a_vote_is_judged_problem_by_problem(write_run: WriteRun) -> None:
    run = write_run()
    for metric, value in (("pass@1", 0.5), ("cons@16", 0.55)):
        change_measure(run, "r1_zero", metric, value, 0.05)
    assert finding(build_summary(run), "vote_r1_zero")["outcome"] == NOISE
    single = [0.25 + 0.005 * i for i in range(100)]
    keep_scores(run, "r1_zero", **{"pass@1": single, "cons@16": [score + 0.05 for score in single]})
    found = finding(build_summary(run), "vote_r1_zero")
    assert found["outcome"] == APPEARED and "problem by problem" in found["sentence"]


def test_few_steps_are_not_judged(write_run: WriteRun) -> None:
    run = write_run()
    rows = "".join(json.dumps({"step": step, "length": 9.0 + step, "reflection": 0.5}) + "\n" for step in range(1, 5))
    (run / "r1_zero" / "metrics.jsonl").write_text(rows)
    summary = build_summary(run)
    assert {finding(summary, f"{key}_r1_zero")["outcome"] for key in ("length", "reflection")} == {SHORT}


def test_win_over_a_failed_baseline_is_called_one(write_run: WriteRun) -> None:
    run = write_run()
    assert "is fair in that" in finding(build_summary(run), "distillation")["sentence"]
    change_measure(run, "student_rl", "pass@1", 0.05, 0.02)
    assert "a baseline that failed" in finding(build_summary(run), "distillation")["sentence"]


def test_random_reward_that_gains_is_said_not_to_be_harmless(write_run: WriteRun) -> None:
    run = write_run()
    assert finding(build_summary(run), "random_reward")["outcome"] == APPEARED
    change_measure(run, "random_reward", "pass@1", 0.3, 0.02)
    assert finding(build_summary(run), "random_reward")["outcome"] == ABSENT


def test_disagreeing_sampler_is_found(write_run: WriteRun) -> None:
    run = write_run()
    assert finding(build_summary(run), "agreement")["outcome"] == APPEARED
    with (run / "dev2" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 81, "max_logprob_gap": 0.7}) + "\n")
    judged = finding(build_summary(run), "agreement")
    assert judged["outcome"] == ABSENT and "0.7 nats, in Dev2" in judged["sentence"]


@pytest.mark.parametrize(
    ("settings", "gap", "outcome"),
    [
        ({}, 0.04, APPEARED),
        ({}, 0.3, ABSENT),
        ({"precision": "float32", "sampler": None}, 0.3, ABSENT),
        ({"precision": "bf16"}, 0.3, APPEARED),
        ({"precision": "bf16"}, 0.7, ABSENT),
        ({"sampler": "bf16"}, 0.3, APPEARED),
        ({"precision": "bf16", "sampler": "int8"}, 0.7, APPEARED),
        ({"sampler": "int8"}, 1.2, ABSENT),
    ],
)
def test_sampler_and_trainer_may_differ_by_what_the_number_type_explains(
    write_run: WriteRun, settings: dict[str, Any], gap: float, outcome: str
) -> None:
    run = write_run()
    recipe = json.loads((run / "recipe.json").read_text())
    next(stage for stage in recipe["stages"] if stage["name"] == "dev2")["settings"].update(settings)
    (run / "recipe.json").write_text(json.dumps(recipe))
    with (run / "dev2" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 81, "max_logprob_gap": gap}) + "\n")
    found = finding(build_summary(run), "agreement")
    assert found["outcome"] == outcome and f"{gap} nats, in Dev2, where" in found["sentence"]


def test_half_finished_run_says_what_has_not_run(write_run: WriteRun) -> None:
    run = write_run(finished=["tokenizer", "problems", "base", "base_eval"], running="r1_zero")
    checker, _ = read_page(build_report(run))
    text = " ".join(checker.text)
    assert "40 steps so far" in text  # the torn last line of the running stage is left out
    assert "not run yet" in text and "So far: " in text
    summary = json.loads((run / "summary.json").read_text())
    assert list(summary["stages"]) == ["base"] and list(summary["curves"]) == ["r1_zero"]
    assert "r1" in summary["missing"] and "base" not in summary["missing"]
    assert finding(summary, "distillation")["outcome"] == NOT_RUN


def change_ledger(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    ledger = json.loads((run / "ledger.json").read_text())
    change(ledger["stages"])
    (run / "ledger.json").write_text(json.dumps(ledger))


def test_a_result_the_ledger_does_not_know_has_not_run(write_run: WriteRun) -> None:
    run = write_run()
    change_ledger(run, lambda stages: [stages.pop(name) for name in ("r1", "r1_eval")])
    build_report(run)
    summary = json.loads((run / "summary.json").read_text())
    assert "r1" not in summary["stages"] and {"r1", "r1_eval"} <= set(summary["missing"])
    assert "r1" not in summary["curves"] and finding(summary, "last_stage_accuracy")["outcome"] == NOT_RUN
    (run / "ledger.json").unlink()  # without a ledger the results are all there is
    assert "r1" in build_summary(run)["stages"]


def test_stale_results_are_marked_and_count_nowhere(write_run: WriteRun) -> None:
    run = write_run()
    change_ledger(run, lambda stages: [stages[name].update(status="stale") for name in ("r1_zero", "r1_zero_eval")])
    before = build_summary(run)
    change_measure(run, "r1_zero", "pass@1", 0.999, 0.0005)
    checker, html = read_page(build_report(run))
    summary = json.loads((run / "summary.json").read_text())
    assert summary["stale"]["r1_zero"]["pass@1"]["value"] == 0.999 and "r1_zero" not in summary["stages"]
    assert summary["findings"] == before["findings"]
    assert finding(summary, "pure_rl")["outcome"] == finding(summary, "length_r1_zero")["outcome"] == NOT_RUN
    assert html.count("<small>stale</small>") == 1 and "99.9" in html and "<b>99.9</b>" not in html
    text = " ".join(checker.text)
    assert "no finding counts them: r1_zero, r1_zero_eval" in text and "25 stages have not finished" not in text
    assert "R1-Zero (stale) on its training prompts: 80 steps." in text
    assert "| R1-Zero |" not in markdown_stage_table(summary)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("ledger.json", "[]"),
        ("ledger.json", '{"stages": {"r1": 3}}'),
        ("recipe.json", '{"stages": [{"kind": "rl"}]}'),
        ("r1_eval/result.json", "[1]"),
        ("r1_eval/result.json", '{"metrics": [1]}'),
    ],
)
def test_a_damaged_file_is_named(write_run: WriteRun, file: str, text: str) -> None:
    run = write_run()
    (run / file).write_text(text)
    with pytest.raises(DataError, match=re.escape(str(run / file))):
        build_report(run)


def test_other_recipe_is_reported_by_its_own_stages(write_run: WriteRun) -> None:
    run = write_run(recipe="r1_real")
    checker, _ = read_page(build_report(run))
    assert "distillation" not in checker.ids
    summary = json.loads((run / "summary.json").read_text())
    assert list(summary["stages"]) == ["untrained", "cold_start", "r1_real"]
    judged = finding(summary, "rl_r1_real")
    assert judged["outcome"] == APPEARED and "21.0 %" in judged["sentence"] and "48.0 %" in judged["sentence"]
    assert finding(summary, "length_r1_real")["outcome"] in {APPEARED, ABSENT}


def test_figures_json_cannot_hold_do_not_reach_the_summary(write_run: WriteRun) -> None:
    run = write_run()
    change_measure(run, "r1", "pass@1", float("nan"), 0.1)
    build_report(run)
    text = (run / "summary.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert json.loads(text)["stages"]["r1"]["pass@1"]["value"] is None
    assert finding(json.loads(text), "last_stage_accuracy")["outcome"] == NOT_RUN


@pytest.mark.parametrize("gone", ["votes", "by_task", "pass@1", "length"])
def test_missing_measures_do_not_stop_the_report(write_run: WriteRun, gone: str) -> None:
    run = write_run()
    for path in run.glob("*_eval/result.json"):
        result = json.loads(path.read_text())
        del result["metrics"][gone]
        path.write_text(json.dumps(result))
    for path in run.glob("*/samples"):
        shutil.rmtree(path)
    (run / "r1" / "metrics.jsonl").write_text('{"step": 1}\n')
    read_page(build_report(run))


def test_two_benchmarks_of_one_model_are_two_rows(write_run: WriteRun) -> None:
    run = write_run(recipe="r1_real")
    recipe = json.loads((run / "recipe.json").read_text())
    for model in ("cold_start", "r1_real"):
        original = next(stage for stage in recipe["stages"] if stage["name"] == f"{model}_eval")
        recipe["stages"].append({**copy.deepcopy(original), "name": f"{model}_own_eval"})
        shutil.copytree(run / f"{model}_eval", run / f"{model}_own_eval")
        change_ledger(run, lambda stages, model=model: stages.update({f"{model}_own_eval": stages[f"{model}_eval"]}))
    (run / "recipe.json").write_text(json.dumps(recipe))
    change_measure(run, "r1_real_own", "pass@1", 0.2, 0.05)
    read_page(build_report(run))
    summary = json.loads((run / "summary.json").read_text())
    assert summary["stages"]["r1_real_own"]["seconds"] == summary["stages"]["r1_real"]["seconds"]
    assert finding(summary, "rl_r1_real")["outcome"] == APPEARED
    assert finding(summary, "rl_r1_real_own")["outcome"] == NOISE


def test_folder_without_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"recipe\.json"):
        build_report(tmp_path)


def test_report_does_not_import_torch() -> None:
    code = "import sys, aha.report.build; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_legend_is_as_wide_as_its_figure_at_most() -> None:
    for labels in (["Student base", "Student, direct RL", "Student, distilled"], ["a", "b", "c"]):
        figure, axes = _figure()
        for label in labels:
            axes.plot([0, 1], [0, 1], label=label)
        _legend(axes, len(labels))
        (legend,) = figure.legends
        assert legend.get_window_extent().width <= figure.bbox.width
    assert legend._ncols == 3  # type: ignore[attr-defined]


def test_paper_shows_what_is_folded_and_keeps_headings_with_their_text() -> None:
    paper = STYLE.partition("@media print{")[2]
    assert "details::details-content{content-visibility:visible" in paper and "html{font-size:9.5pt}" in paper
    assert re.search(r"h2,h3,[^}]*h2\+p[^}]*{break-after:avoid}", paper)


def test_readme_figure_is_a_png(write_run: WriteRun, tmp_path: Path) -> None:
    picture = tmp_path / "docs" / "run.png"
    save_readme_figure(write_run(), picture)
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_rolling_mean_and_overlap_by_hand() -> None:
    assert rolling_mean([2, 4, 6, 8], 2) == [2, 3, 5, 7]
    assert Measure(0.5, 0.4, 0.6).overlaps(Measure(0.65, 0.6, 0.7))
    assert not Measure(0.5, 0.4, 0.59).overlaps(Measure(0.65, 0.6, 0.7))
    assert not Measure(0.5).overlaps(Measure(0.5, 0.4, 0.6))
