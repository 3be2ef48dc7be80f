"""The commands that ask, judge, explain and measure, as a script sees them."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aha.cli import main
from aha.data.problems import save_problems
from aha.model.heads import ProcessRewardModel, save_process_reward_model
from aha.stages.models import save_policy
from aha.tasks import number
from aha.testing import byte_tokenizer, tiny_policy
from aha.util.benchmarks import load_benchmark
from aha.util.files import read_json

Program = Callable[..., tuple[int, str, str]]


@pytest.fixture
def aha_main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["aha", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        code = end.value.code
        assert code is None or isinstance(code, int)
        return (code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_policy(tiny_policy(tokenizer=byte_tokenizer(), template="{question} ="), tmp_path / "stage" / "model")
    return tmp_path / "stage"


def test_generate_prints_json_and_says_which_template(aha_main: Program, model: Path) -> None:
    code, output, errors = aha_main(
        "generate", model, "1 + 2", "--n", 3, "--max-new-tokens", 5, "--search", "vote", "--json"
    )
    said = json.loads(output)
    assert code == 0 and "aha.json" in errors and said["prompt"] == "1 + 2 ="
    assert len(said["completions"]) == 3 and all(1 <= row["tokens"] <= 5 for row in said["completions"])
    assert said["vote"] == {"answer": None, "counts": {}, "abstained": 3} and said["tokens_per_second"] > 0
    alone = json.loads(aha_main("generate", model, "1 + 2", "--max-new-tokens", 5, "--json")[1])
    assert [row["text"] for row in alone["completions"]] == [said["completions"][0]["text"]]


def test_generate_for_people(aha_main: Program, model: Path) -> None:
    code, output, errors = aha_main("generate", model, "1", "--max-new-tokens", 3, "--template", "say {question}")
    assert code == 0 and "ended by" in output and "no single <answer>" in output
    assert "template given: say {question}" in errors and "tokens/s" in errors
    code, _, errors = aha_main("generate", model, "1", "--search", "bean")
    assert code == 2 and "did you mean 'beam'" in errors
    code, _, errors = aha_main("generate", model, "1", "--search", "beam")
    assert code == 2 and "--scorer" in errors
    code, _, errors = aha_main("generate", model, "1", "--search", "vote", "--n", 1)
    assert code == 2 and "has nothing to choose from" in errors
    code, _, errors = aha_main("generate", model, "1", "--search", "beam", "--scorer", model, "--speculate", 1)
    assert code == 2 and "--speculate drafts for plain samples" in errors


def test_generate_searches_and_bench_draws_what_searches_cost(aha_main: Program, tmp_path: Path) -> None:
    policy = tiny_policy()
    save_policy(policy, tmp_path / "stage" / "model")
    scorer = ProcessRewardModel(policy.decoder)
    save_process_reward_model(scorer, policy.config, tmp_path / "scorer" / "model")
    policy.tokenizer.save(tmp_path / "scorer" / "model")
    options = ("--max-new-tokens", 6, "--temperature", 1)
    for name in ("best-of-n", "beam", "lookahead", "mcts", "adaptive"):
        code, output, _ = aha_main(
            "generate", tmp_path / "stage", "compute 1 #1 + 2", "--search", name, "--scorer", tmp_path / "scorer",
            "--n", 4, *options, "--json",
        )  # fmt: skip
        said = json.loads(output)
        assert code == 0 and 1 <= said["chosen"]["tokens"] <= 6
        assert said["spent"]["sampled"] >= said["chosen"]["tokens"] and said["spent"]["scored"] > 0
    picture = tmp_path / "scaling.png"
    load_benchmark("search")
    code, output, _ = aha_main(
        "bench", "search", tmp_path / "stage", "--scorer", tmp_path / "scorer", "--limit", 10, *options,
        "--picture", picture, "--json",
    )  # fmt: skip
    found = json.loads(output)
    assert code == 0 and picture.stat().st_size > 1000 and [row["k"] for row in found["oracle"]] == [1, 4, 16]
    assert {row["strategy"] for row in found["rows"]} == {
        "vote", "weighted vote", "best-of-n", "best-of-n min", "best-of-n product", "beam", "lookahead", "mcts",
        "revise", "budget", "adaptive",
    }  # fmt: skip
    assert [(row["first"], row["second"]) for row in found["comparisons"]] == [
        ("one sample", "vote@16"), ("vote@16", "best-of-16"), ("best-of-4", "beam of 4"), ("best-of-4", "beam of 4"),
    ]  # fmt: skip
    assert [(row["bins"], row["problems"]) for row in found["comparisons"]] == [
        ("all", 10), ("all", 10), ("middling", 6), ("hardest", 2),
    ]  # fmt: skip
    code, _, errors = aha_main("bench", "search")
    assert code == 2 and "search needs a model" in errors
    code, _, errors = aha_main("bench", "search", tmp_path / "stage", "--limit", 9)
    assert code == 1 and "9 problems for 5 bins of difficulty: ask at least 10" in errors
    code, _, errors = aha_main("bench", "pipeline", tmp_path, "--limit", 3)
    assert code == 2 and "pipeline has no MODEL, --limit" in errors


def test_evaluate_prints_stores_and_takes_files(aha_main: Program, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    save_problems(path, [number.addition(1, 2), number.addition(3, 4), number.addition(5, 6)])
    options = ("--samples", 2, "--max-new-tokens", 4, "--limit", 2)
    out = tmp_path / "found.json"
    code, output, _ = aha_main("evaluate", model, "--bench", path, "--bench", "chain", *options, "--out", out, "--json")
    found = json.loads(output)
    assert code == 0 and list(found["benches"]) == [str(path), "chain"] and read_json(out) == found
    assert found["benches"]["chain"]["problems"] == 2 == found["benches"]["chain"]["samples"]
    assert found["benches"][str(path)]["pass@2"].keys() == {"value", "low", "high"}
    code, output, _ = aha_main("evaluate", model, "--bench", path, *options)
    assert code == 0 and "cons@2" in output and "mine.jsonl" in output
    assert "contamination is not known" in output and found["contamination"] is None
    trained = tmp_path / "trained.jsonl"
    trained.write_text('{"problem": "what is 3 + 4?"}\n{"problem": "What  is 3 + 4?", "answer": 7}\n')
    code, output, _ = aha_main("evaluate", model, "--bench", path, *options, "--trained-on", trained)
    assert code == 0 and f"contamination of {path}: 1 of 2 questions" in output
    (model / "lineage.json").write_text('{"stage": {"name": "stage"}, "ancestors": {}}')
    code, output, _ = aha_main("evaluate", model, "--bench", path, *options)
    assert f"contamination is not known: {model} has no stage behind it with a file of questions" in output
    for bad, message in ((path / "x.json", "cannot write into"), (tmp_path, "is a folder: give the file to write")):
        code, output, errors = aha_main("evaluate", tmp_path / "nowhere", "--bench", path, "--out", bad)
        assert code == 2 and f"--out {bad}" in errors and message in errors
    code, _, errors = aha_main("evaluate", model, "--bench", "chan", *options)
    assert code == 2 and "did you mean 'chain'" in errors


def test_evaluations_are_kept_graded_again_and_compared(aha_main: Program, model: Path, tmp_path: Path) -> None:
    path, kept, out = tmp_path / "own.jsonl", tmp_path / "kept", tmp_path / "found.md"
    path.write_text('{"problem": "1 + 2", "answer": "3"}\n{"problem": "2 + 2", "answer": "4"}\n')
    options = ("--bench", f"math500={path}", "--samples", 2, "--max-new-tokens", 4)
    trained = ("--trained-on", path)
    code, output, _ = aha_main("evaluate", model, *options, *trained, "--keep", kept, "--json")
    found = json.loads(output)
    assert code == 0 and read_json(kept / "results.json") == found
    assert (kept / "results.png").read_bytes().startswith(b"\x89PNG") and "math500" in (kept / "results.md").read_text()
    code, output, _ = aha_main("evaluate", kept, "--regrade", "--json")
    assert code == 0 and json.loads(output) == found == read_json(kept / "results.json")
    code, output, _ = aha_main("evaluate", kept, "--regrade")
    assert code == 0 and "2 are equal to one there" in output
    code, output, _ = aha_main("evaluate", kept, kept, "--compare", "--out", out)
    assert code == 0 and "within chance" in output and "within chance" in out.read_text()
    code, output, _ = aha_main("evaluate", kept, model, "--compare", *options, "--out", tmp_path / "gap.png", "--json")
    assert code == 0 and json.loads(output)["benches"][f"math500={path}"]["difference"]["pass@1"]["p_value"] == 1.0
    assert (tmp_path / "gap.png").read_bytes().startswith(b"\x89PNG")
    half_kept = tmp_path / "half"
    code, output, _ = aha_main("evaluate", model, *options, "--dtype", "bfloat16", "--keep", half_kept, "--json")
    (half,) = half_kept.glob("*.generations.jsonl")
    assert code == 0 and json.loads(half.read_text().splitlines()[0])["settings"]["dtype"] == "bfloat16"
    assert json.loads(output)["dtype"] == "bfloat16" and found["dtype"] == "float32"
    for words, message in (
        ((kept, model), "--compare takes two"),
        ((kept,), "--regrade grades it again"),
        ((model, "--regrade"), "holds no generations"),
        ((model,), "give --bench"),
        ((kept, model, "--compare", "--bench", "chain", "--keep", kept), "--keep goes with one model"),
        ((model, *options, "--keep", kept, "--dtype", "bfloat16"), "was sampled with dtype 'float32', now 'bfloat16'"),
        ((model, *options, "--dtype", "bf16"), "did you mean 'bfloat16'"),
        ((kept, "--regrade", "--samples", 9, "--seed", 3), "--samples, --seed: what was kept is not sampled again"),
        ((kept, kept, "--compare", *options), "--bench, --samples, --max-new-tokens: what was kept"),
        ((kept, model, "--compare", *options, *trained), "--trained-on goes with the evaluation of one"),
    ):
        code, _, errors = aha_main("evaluate", *words)
        assert code == 2 and message in errors
    code, _, errors = aha_main("evaluate", model, *options, "--keep", tmp_path / "not", "--trained-on", "nope.jsonl")
    assert code == 1 and "nope.jsonl" in errors and not (tmp_path / "not").exists(), "before anything is sampled"


def test_explain(aha_main: Program) -> None:
    code, output, _ = aha_main("explain", "14", "<think> 9 + 5 </think> <answer> 15 </answer>")
    assert code == 0 and "accuracy: WRONG" in output and "format: RIGHT" in output and "9 + 5" in output
    code, output, _ = aha_main("explain", "20 + 7 - 2", "7 - 2 + 20", "--task", "countdown", "--json")
    said = json.loads(output)
    assert said["verdicts"]["accuracy"]["status"] == "right"
    assert said["compared"][1] == {"what": "numbers used", "found": "20 7 2", "wanted": "20 7 2"}


def test_bench_prints_one_object_and_offers_the_nearest_name(
    aha_main: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_benchmark("rollout")
    monkeypatch.setattr("benchmarks.setting.UNIFORM_TOKENS", 2)
    code, output, _ = aha_main("bench", "rollout", "--repeat", 1, "--json")
    found = json.loads(output)
    sides = ["aha", "aha without kernels", "transformers.generate"]
    assert code == 0 and list(dict.fromkeys(row["name"] for row in found["rows"])) == [*sides, "limit of the machine"]
    assert found["ratios"]["aha / transformers.generate"].keys() == {"wall", "cpu"} and found["versions"]["torch"]
    code, _, errors = aha_main("bench", "rolout")
    assert code == 2 and "did you mean 'rollout'" in errors


def test_bench_without_a_peer_says_so(aha_main: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    load_benchmark("train")
    case = importlib.import_module("benchmarks.train").CASES[1]
    monkeypatch.setattr("benchmarks.train.CASES", (dataclasses.replace(case, new=2),))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, output, _ = aha_main("bench", "train", "--repeat", 1)
    assert code == 0 and "TRL is not installed" in output and "of it reference" in output


def test_bench_pipeline_compares_schedules_and_draws_them(aha_main: Program, tmp_path: Path) -> None:
    picture = tmp_path / "new" / "pipeline.svg"
    code, output, errors = aha_main("bench", "pipeline", "--costs", "1,1,1,3", "--picture", picture, "--json")
    rows = {row["name"]: row for row in json.loads(output)["rows"]}
    assert code == 0 and str(picture) in errors
    assert {name: row["makespan"] for name, row in rows.items()} == {
        "1F1B": 81, "ZB1P": 67, "DualPipe": 66, "DualPipeV": 66
    }  # fmt: skip
    drawn = picture.read_text(encoding="utf-8")
    assert all(f"{name}: done after" in drawn for name in rows)
    size = ("--ranks", 4, "--micro-batches", 8, "--picture", tmp_path / "four.png")
    code, output, _ = aha_main("bench", "pipeline", *size)
    assert code == 0 and "DualPipeV" in output and (tmp_path / "four.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pipeline", "--costs", "1,2,3"), "--costs 1,2,3: wants four positive numbers"),
        (("pipeline", "--costs", "inf,1,1,1"), "--costs inf,1,1,1: wants four positive numbers"),
        (("group",), "no benchmark 'group'"),
        (("pipeline", "--picture", "timeline.txt"), "it ends with none of .png"),
        (("pipeline", "--ranks", 3), "DualPipe needs an even number of ranks"),
        (("verdicts", "--micro-batches", 3), "the benchmark verdicts has no --micro-batches"),
    ],
)
def test_bench_refuses_what_does_not_fit(aha_main: Program, arguments: tuple[object, ...], message: str) -> None:
    code, _, errors = aha_main("bench", *arguments)
    assert code == 2 and message in errors
