"""The command line as a script sees it: exit codes, what goes to which stream, help without torch."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch

import aha
from aha import doctor
from aha.cli import _show_summary, main
from aha.model.config import ModelConfig
from aha.model.count import count_parameters
from aha.model.decoder import build_decoder
from aha.model.folder import load_model, save_model
from aha.objective.algorithms import ALGORITHMS
from aha.util.files import read_json, write_json_atomic

TOY = Path(__file__).parent / "pipeline" / "toy_recipe.py"
Program = Callable[..., tuple[int, str, str]]
COMMANDS = (
    "run", "report", "inspect", "generate", "evaluate", "explain", "algorithms", "bench", "convert", "count", "doctor",
    "data",
)


def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(Path(aha.__file__).parents[1]), str(TOY.parent)])
    return subprocess.run(
        [sys.executable, "-m", "aha", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": paths, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def aha_main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """The program in this process: exit code, standard output, standard error."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["aha", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        code = end.value.code
        assert code is None or isinstance(code, int)
        return (code or 0, *capsys.readouterr())

    return run


def test_help_of_every_command_needs_no_torch() -> None:
    script = (
        "import sys\nfrom aha.cli import app\n"
        f"for command in [[], *[[name] for name in {COMMANDS!r}]]:\n"
        "    assert app([*command, '--help'], standalone_mode=False) in (0, None)\n"
        "heavy = {'torch', 'transformers', 'pyarrow', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(aha.__file__).parents[1])}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert all(f" {name} " in result.stdout for name in COMMANDS)


def test_numbers_that_json_cannot_hold_are_printed_as_null(
    aha_main: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    interval = {"value": 7.0, "low": -math.inf, "high": math.inf, "mean": math.nan}  # as of one problem
    monkeypatch.setattr(doctor, "check_machine", lambda: [SimpleNamespace(ok=True, found=interval)])
    code, out, _ = aha_main("doctor", "--json")

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    (check,) = json.loads(out, parse_constant=refuse)["checks"]
    assert code == 0 and check["found"] == {"value": 7.0, "low": None, "high": None, "mean": None}


def test_a_run_prints_one_json_object(tmp_path: Path) -> None:
    first = call("run", TOY, "--out", tmp_path / "run", "--set", "seed=3", "--json")
    assert first.returncode == 0, first.stderr
    said = json.loads(first.stdout)
    assert {name: row["status"] for name, row in said["stages"].items()} == dict.fromkeys("abcd", "done")
    assert said["summary"] == read_json(tmp_path / "run" / "summary.json") and said["summary"]["seed"] == 3
    assert Path(said["report"]).is_file() and "d done in" in first.stderr


def test_a_failed_stage_is_a_message_and_exit_code_one(tmp_path: Path) -> None:
    command = ["run", TOY, "--out", tmp_path / "run", "--set", "b.end=error", "--only", "a", "--only", "b"]
    failed = call(*command, "--jobs", "2")
    assert failed.returncode == 1 and failed.stdout == ""
    again = " ".join(map(str, ["aha", *command, "--jobs", "2"]))
    assert failed.stderr.splitlines()[-2:] == [
        "aha: stage b failed: the data is no good",
        f"     continue with: {again}",
    ]
    assert "Traceback" not in failed.stderr


def test_a_failed_run_is_reported_and_summarised(tmp_path: Path) -> None:
    failed = call("run", TOY, "--out", tmp_path / "run", "--set", "b.end=error", "--jobs", "1", "--json")
    said = json.loads(failed.stdout)
    assert failed.returncode == 1 and "stage b failed" in failed.stderr
    assert said["stages"]["a"]["status"] == "done" and said["stages"]["b"]["status"] == "failed"
    assert "b" in said["summary"]["missing"] and Path(said["report"]).is_file()


def test_a_report_that_cannot_be_made_does_not_hide_why_a_run_failed(
    aha_main: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(run: Path) -> Path:
        raise ZeroDivisionError("no page")

    monkeypatch.syspath_prepend(TOY.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(aha.__file__).parents[1]), str(TOY.parent)]))
    monkeypatch.setattr("aha.report.build.build_report", fail)
    code, _, errors = aha_main("run", TOY, "--out", tmp_path / "run", "--set", "a.end=error")
    assert code == 1 and "no report of" in errors and "aha: stage a failed: the data is no good" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", TOY, "--set", "b.stpes=8"], "b has no setting 'stpes': did you mean 'steps'"),
        (["run", TOY, "--set", "e.steps=8"], "no stage 'e'"),
        (["run", TOY, "--set", "sede=8"], "no argument 'sede': did you mean 'seed'"),
        (["run", TOY, "--only", "e"], "has no stage 'e'"),
        (["run", "r1_tiny", "--set", "r1_zero.algorithm=grpo-r2"], "no algorithm 'grpo-r2'; did you mean 'grpo-r1'"),
        (["run", "r1_tiny", "--set", "r1_zero.samples=1"], "compares the samples of a group and needs 2 or more"),
        (["run", "r1_tniy"], "no recipe 'r1_tniy': did you mean 'r1_tiny'"),
        (["run", TOY, "--jbos", "2"], "No such option: --jbos"),
        (["rnu"], "No such command 'rnu'"),
        (["report", "nowhere"], "nowhere is not a run folder"),
    ],
)
def test_wrong_usage_is_exit_code_two_and_offers_the_nearest_name(
    aha_main: Program, tmp_path: Path, arguments: list[Any], message: str
) -> None:
    out = ["--out", tmp_path / "run", "--dry-run"] if arguments[0] == "run" else []
    code, output, errors = aha_main(*arguments, *out)
    assert (code, output) == (2, "") and message in errors
    assert not (tmp_path / "run").exists()


def test_an_error_of_the_system_is_one_line_with_the_path(
    aha_main: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    code, _, errors = aha_main("run", TOY, "--out", tmp_path / "file" / "sub")
    assert code == 1 and f"aha: {tmp_path / 'file' / 'sub'}: Not a directory: check that path" in errors

    def fill(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    write_json_atomic(tmp_path / "run" / "recipe.json", {"recipe": "toy", "stages": []})
    monkeypatch.setattr(os, "fsync", fill)
    code, _, errors = aha_main("report", tmp_path / "run")
    summary = tmp_path / "run" / "summary.json"
    assert code == 1 and f"aha: {summary}: No space left on device: free some space" in errors


def test_the_summary_shows_what_was_measured_with_intervals_that_can_be(capsys: pytest.CaptureFixture[str]) -> None:
    share = {"value": 1.0, "low": 0.981, "high": 1.0}
    vote = {"value": 0.5, "low": 0.4, "high": 0.8}
    row = {"pass@1": share, "cons@4": vote, "length": {"value": 35.66}, "seconds": 3.0}
    _show_summary({"stages": {"r1_real": row}, "stale": {"dev1": {"pass@1": share, "seconds": None}}})
    header, rule, first, second = capsys.readouterr().err.splitlines()[1:5]
    assert header.split() == ["stage", "pass@1", "%", "cons@4", "%", "length", "seconds"] and rule.strip(" ─") == ""
    assert first.split() == ["r1_real", "100.0", "(98.1–100.0)", "50.0", "35.7", "3"]
    assert second.split() == ["dev1", "(stale)", "100.0", "(98.1–100.0)"]


def test_dry_run_shows_the_plan_and_writes_nothing(aha_main: Program, tmp_path: Path) -> None:
    wanted = ("run", TOY, "--out", tmp_path / "run", "--dry-run", "--set", "b.steps=8", "--only", "a")
    code, output, _ = aha_main(*wanted, "--json")
    rows = {row["stage"]: row for row in json.loads(output)["stages"]}
    assert code == 0 and not (tmp_path / "run").exists()
    assert rows["b"]["settings_changed"] == ["steps 5 -> 8"] and rows["c"]["settings_changed"] == []
    assert [name for name, row in rows.items() if row["will_run"]] == ["a"]
    code, output, _ = aha_main(*wanted)
    assert code == 0 and "steps 5 -> 8" in output and "missing" in output


def write_samples(stage: Path, advantages: Sequence[float] = (-0.5, 1.5)) -> None:
    (stage / "samples").mkdir(parents=True)
    for step, reward in ((1, 0.0), (2, 1.0)):
        row = {
            "step": step,
            "problem_id": "chain/1+1",
            "task": "chain",
            "language": "en",
            "prompt": "what is 1 + 1 ?",
            "completion": "it is [2]",
            "answer": "2",
            "finish_reason": "end",
            "reward": reward,
            "rewards": json.dumps({"accuracy": reward}),
            "tokens": ["it is ", "[2]"],
            "advantages": list(advantages),
        }
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), stage / "samples" / f"{step:06d}.parquet")


def test_inspect_shows_samples_rewards_and_advantages(aha_main: Program, tmp_path: Path) -> None:
    write_samples(tmp_path / "run" / "r1_zero")
    stage = tmp_path / "run" / "r1_zero"
    code, output, _ = aha_main("inspect", stage, "--json")
    said = json.loads(output)
    assert code == 0 and said["steps"] == [1, 2] and said["step"] == 2
    assert said["samples"][0]["rewards"] == {"accuracy": 1.0} and said["samples"][0]["advantages"] == [-0.5, 1.5]
    code, output, _ = aha_main("inspect", tmp_path / "run", "--step", "1")
    assert code == 0 and "it is [2]" in output and "advantage of its tokens -0.50 to +1.50" in output
    assert "reward 0.00; unweighted parts: accuracy 0.00" in output
    write_samples(tmp_path / "run" / "r1_zero_eval", advantages=[])
    code, output, _ = aha_main("inspect", tmp_path / "run" / "r1_zero_eval")
    assert code == 0 and "answer 2   accuracy 1.00" in output and "reward" not in output
    for arguments, message in [
        ((stage, "--step", "3"), "no samples of step 3: steps 1, 2"),
        ((stage, "--task", "chian"), "did you mean 'chain'"),
        ((tmp_path / "run" / "r1_zreo",), "did you mean 'r1_zero'"),
        ((stage, "--detail", "1"), "the table has rows 0 to 0"),
    ]:
        code, _, errors = aha_main("inspect", *arguments)
        assert code == 2 and message in errors


def test_inspect_shows_what_guards_found(aha_main: Program, tmp_path: Path) -> None:
    write_samples(tmp_path / "run" / "r1_zero")
    says = "step 2: repetition 0.9 (limit 0.5): completions end in loops"
    rows = [{"step": 1}, {"step": 2, "guards": [{"what": "repetition", "action": "rollback", "says": says}]}]
    (tmp_path / "run" / "r1_zero" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, output, _ = aha_main("inspect", tmp_path / "run", "--json")
    event = {"step": 2, "what": "repetition", "action": "rollback", "says": says.removeprefix("step 2: ")}
    assert code == 0 and json.loads(output)["guards"] == [event]
    code, output, _ = aha_main("inspect", tmp_path / "run" / "r1_zero", "--step", "1")
    assert code == 0 and output.index("it is [2]") < output.index("rollback")


def test_inspect_names_a_damaged_file(aha_main: Program, tmp_path: Path) -> None:
    write_samples(tmp_path / "r1")
    file = tmp_path / "r1" / "samples" / "000002.parquet"
    file.write_bytes(file.read_bytes()[:100])
    code, _, errors = aha_main("inspect", tmp_path / "r1")
    assert code == 1 and f"{file}: cannot be read as samples" in errors


CONFIG = ModelConfig(
    vocab_size=16,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
)


def test_count_reads_a_config_alone(aha_main: Program, tmp_path: Path) -> None:
    save_model(build_decoder(CONFIG, seed=0), CONFIG, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    code, output, _ = aha_main("count", tmp_path / "config.json", "--context", "10", "--json")
    figures = json.loads(output)
    assert code == 0 and figures["parameters"] == count_parameters(CONFIG)
    assert figures["cache_bytes"] == 10 * figures["cache_bytes_per_token"]
    assert aha_main("count", tmp_path)[0] == 0
    save_model(build_decoder(CONFIG, seed=0), CONFIG, tmp_path / "r1" / "model")
    assert json.loads(aha_main("count", tmp_path / "r1", "--context", "10", "--json")[1])["parameters"] > 0
    code, _, errors = aha_main("count", tmp_path / "nowhere")
    assert code == 1 and "does not exist" in errors


def test_count_knows_published_models_and_needs_no_torch(aha_main: Program) -> None:
    code, output, _ = aha_main("count", "deepseek-v3", "--json")
    figures = json.loads(output)
    assert code == 0 and figures["parameters"] == 671_026_419_200
    assert figures["cache_bytes_per_token"] == 70_272 and figures["cache_dtype"] == "bfloat16"
    assert figures["cache_values_per_token_and_layer"] == 576
    assert figures["cache_values_of_multi_head_attention"] == 32_768
    code, output, _ = aha_main("count", "deepseek-v3")
    assert code == 0 and "671,026,419,200" in output and "70,272" in output
    code, _, errors = aha_main("count", "deepseek-v9")
    assert code == 1 and "did you mean 'deepseek-v3'" in errors
    code, _, errors = aha_main("count", "deepseek-v3", "--layout", "zero")
    assert code == 2 and "did you mean 'zero1'" in errors
    asked = "import sys; sys.argv = ['aha', 'count', 'deepseek-v3', '--json']; from aha.cli import main\n"
    watched = "try: main()\nfinally: print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", asked + watched], capture_output=True, text=True, check=False)
    assert found.stdout.splitlines()[-1] == "False", found.stderr


def test_convert_writes_a_folder_of_another_type_with_its_tokenizer(aha_main: Program, tmp_path: Path) -> None:
    source = tmp_path / "src" / "model"
    save_model(build_decoder(CONFIG, seed=0), CONFIG, source)
    write_json_atomic(source / "tokenizer.json", {})
    write_json_atomic(source / "aha.json", {"template": "Q {question}"})
    (source / "reward_head.safetensors").write_bytes(b"a head")
    assert aha_main("convert", tmp_path / "src", tmp_path / "dst", "--dtype", "bfloat16")[0] == 0
    assert read_json(tmp_path / "dst" / "aha.json") == {"template": "Q {question}"}
    assert (tmp_path / "dst" / "reward_head.safetensors").read_bytes() == b"a head"
    before, after = load_model(source)[0], load_model(tmp_path / "dst", dtype=torch.bfloat16)[0]
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor.to(torch.bfloat16), after.state_dict()[name])
    assert (tmp_path / "dst" / "tokenizer.json").is_file()
    code, _, errors = aha_main("convert", tmp_path / "src", tmp_path / "dst")
    assert code == 2 and "is not empty" in errors
    code, _, errors = aha_main("convert", tmp_path / "src", tmp_path / "new", "--shard-size", "inf")
    assert code == 2 and "--shard-size inf" in errors
    code, _, errors = aha_main("convert", tmp_path / "src", tmp_path / "new", "--dtype", "float17")
    assert code == 2 and "did you mean" in errors


def test_doctor_finds_what_the_tests_need(aha_main: Program) -> None:
    code, output, _ = aha_main("doctor", "--json")
    said = json.loads(output)
    names = {check["name"] for check in said["checks"]}
    assert code == 0 and said["ok"] and {"torch", "memory", "disk", "sandbox for programs"} <= names


def test_doctor_without_torch_says_so(aha_main: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    code, output, _ = aha_main("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(output)["checks"]}
    assert code == 1 and "torch cannot be imported" in checks["matrix product"]["found"]
    assert checks["disk"]["ok"] and checks["accelerator"]["found"] == "unknown without torch"


def test_algorithms_lists_every_row_and_says_what_differs(aha_main: Program) -> None:
    code, out, _ = aha_main("algorithms")
    assert code == 0
    assert all(re.search(rf"^ *{re.escape(name)} ", out, re.MULTILINE) for name in ALGORITHMS)
    code, out, _ = aha_main("algorithms", "grpo", "cppo", "--json")
    assert (code, json.loads(out)) == (0, {"differs": {"prune": {"grpo": 0.0, "cppo": 0.875}}})
    code, out, _ = aha_main("algorithms", "ppo", "--json")
    assert json.loads(out)["algorithms"]["ppo"]["critic"]["lr_ratio"] == 5.0
    code, _, err = aha_main("algorithms", "grpp")
    assert code == 2 and "grpo" in err
