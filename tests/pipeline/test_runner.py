"""Running, skipping, staleness, failure, stopping and being killed; results must be those of a straight run."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy_stages
from toy_recipe import toy_recipe

import aha
from aha.errors import AhaError, StageFailed, UsageError
from aha.pipeline.display import PlainDisplay
from aha.pipeline.fingerprint import compute_origins
from aha.pipeline.graph import Pipeline, Stage, override
from aha.pipeline.runner import default_jobs, plan_run, run_pipeline
from aha.util.files import read_json, read_jsonl, write_json_atomic

STAGES = ("a", "b", "c", "d")


def go(pipeline: Pipeline, folder: Path, jobs: int = 2, **options: list[str]) -> str:
    said = io.StringIO()
    run_pipeline(pipeline, folder, display=PlainDisplay(said), jobs=jobs, **options)
    return said.getvalue()


def values(folder: Path) -> dict[str, str]:
    return {path.parent.name: read_json(path)["metrics"]["value"] for path in sorted(folder.glob("*/result.json"))}


def statuses(folder: Path) -> dict[str, str]:
    return {name: row["status"] for name, row in read_json(folder / "ledger.json")["stages"].items()}


@pytest.fixture(scope="module", autouse=True)
def _same_sources() -> Iterator[None]:
    """An edit of the sources while tests run is no part of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aha.pipeline.plan.compute_origins", functools.partial(compute_origins, code=lambda run: "code"))
        yield


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("straight") / "run"
    go(toy_recipe(steps=40), folder, jobs=1)
    return values(folder)


def test_a_finished_run_is_skipped_and_its_files_are_those_of_the_contract(tmp_path: Path) -> None:
    first = go(toy_recipe(), tmp_path / "run")
    assert first.index("c started") < first.index("b started")  # the longer path first
    before = values(tmp_path / "run")
    assert "done already" in go(toy_recipe(), tmp_path / "run") and set(before) == set(STAGES)
    assert values(tmp_path / "run") == before
    assert statuses(tmp_path / "run") == dict.fromkeys(STAGES, "done")
    recipe = read_json(tmp_path / "run" / "recipe.json")
    assert recipe["recipe"] == "toy_recipe" and recipe["arguments"]["seed"] == 0
    d = recipe["stages"][0]
    assert (d["name"], d["kind"], d["inputs"]) == ("d", "toy_stages", {"left": "b", "right": "c"})
    assert d["settings"]["steps"] == 5
    assert [row["step"] for row in read_jsonl(tmp_path / "run" / "a" / "metrics.jsonl")] == [1, 2, 3, 4, 5]


def test_a_stage_whose_output_is_gone_is_done_again(tmp_path: Path) -> None:
    """Whoever reads it would fail, and be told to continue with what reads it again."""
    go(toy_recipe(), tmp_path / "run")
    before, record = values(tmp_path / "run"), read_json(tmp_path / "run" / "b" / "lineage.json")
    (tmp_path / "run" / "b" / "train.jsonl").write_text("")
    (tmp_path / "run" / "b" / "test.jsonl").write_text("")
    record["stage"]["files"] = {"train.jsonl": "0" * 64, "test.jsonl": hashlib.sha256().hexdigest()}
    write_json_atomic(tmp_path / "run" / "b" / "lineage.json", record)
    planned = {p.stage.name: (p.status, p.reasons) for p in plan_run(toy_recipe(), tmp_path / "run")}
    assert planned["b"] == ("missing", ("train.jsonl is gone or empty",)) and planned["a"] == ("done", ())
    assert "b started" in go(toy_recipe(), tmp_path / "run") and values(tmp_path / "run") == before


def test_hashes_of_strings_are_equal_in_all_stages_and_output_goes_to_a_file(tmp_path: Path) -> None:
    go(toy_recipe(), tmp_path / "run")
    logs = {(tmp_path / "run" / name / "output.log").read_text().partition("says")[2] for name in STAGES}
    assert len(logs) == 1 and "hello with hash" in logs.pop()


def test_only_what_depends_on_a_changed_setting_is_redone_and_the_reason_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    go(toy_recipe(), folder)
    before = values(folder)
    changed = override(toy_recipe(), ["b.steps=7"])
    assert {planned.stage.name for planned in plan_run(changed, folder) if planned.selected} == {"b", "d"}
    said = go(changed, folder)
    assert "b is stale: steps 5 -> 7" in said and "d is stale: input left changed" in said
    assert said.index("d is stale") < said.index("b started")
    after = values(folder)
    assert [name for name in STAGES if after[name] != before[name]] == ["b", "d"]


def test_a_stale_result_stays_until_its_stage_starts_again_and_can_become_current(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    go(toy_recipe(), folder)
    before = values(folder)
    broken = override(toy_recipe(), ["b.end=error", "b.steps=6"])
    with pytest.raises(StageFailed):
        go(broken, folder)
    assert statuses(folder) == {"a": "done", "b": "failed", "c": "done", "d": "stale"}
    assert values(folder)["d"] == before["d"]
    said = go(toy_recipe(), folder)
    assert "d started" not in said and "b started" in said and values(folder) == before
    assert statuses(folder)["d"] == "done"


def test_another_seed_changes_every_stage_and_the_same_seed_none(tmp_path: Path) -> None:
    go(toy_recipe(seed=1), tmp_path / "one")
    go(toy_recipe(seed=1), tmp_path / "two", jobs=1)
    go(toy_recipe(seed=2), tmp_path / "three")
    one, two, three = (values(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two and all(one[name] != three[name] for name in STAGES)


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("error", "stage b failed: the data is no good"),
        ("crash", "ZeroDivisionError: by zero (traceback in"),
        ("killed", "killed by SIGKILL"),
        ("full", "no space left on the disk"),
    ],
)
def test_a_failing_stage_keeps_what_others_did(tmp_path: Path, end: str, message: str) -> None:
    folder = tmp_path / "run"
    slow_c = override(toy_recipe(), [f"b.end={end}", "c.steps=4000", "c.seconds=0.01"])
    with pytest.raises(StageFailed, match="stage b failed") as failure:
        go(slow_c, folder)
    assert message in str(failure.value)
    assert "stopped with it, saved and to be continued: c" in str(failure.value)
    assert statuses(folder) == {"a": "done", "b": "failed", "c": "partial"}
    assert (folder / "b.partial" / "error.txt").exists() == (end == "crash")
    # c saved at its last step, not at the last multiple of three, and continues from there
    saved = read_json(folder / "c.partial" / "state.json")["step"]
    assert read_jsonl(folder / "c.partial" / "metrics.jsonl")[-1]["step"] == saved
    said = go(override(toy_recipe(), ["c.steps=4000", "c.seconds=0.01"]), folder, only=["b"])
    assert "b starts over: end" in said and values(folder)["b"]


def test_a_stage_that_failed_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    recipe = override(toy_recipe(), ["a.end=crash once"])
    with pytest.raises(StageFailed, match="ZeroDivisionError"):
        go(recipe, folder, only=["a"])
    assert (folder / "a.partial" / "error.txt").exists()
    assert "a continues" in go(recipe, folder, only=["a"])
    assert not (folder / "a" / "error.txt").exists()
    rows = read_jsonl(folder / "a" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]


def test_the_ledger_forgets_a_stage_before_its_folder_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    go(toy_recipe(), folder)

    def killed(*_paths: Path) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("aha.pipeline.runner._clear", killed)
    with pytest.raises(KeyboardInterrupt):
        go(override(toy_recipe(), ["d.steps=7"]), folder)
    assert set(statuses(folder)) == {"a", "b", "c"}  # or half a folder would count again with the old setting


def test_a_stage_waits_until_that_of_a_killed_runner_is_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = tmp_path / "run" / "a.partial"
    go(toy_recipe(), tmp_path / "run", only=["a"])
    (tmp_path / "run" / "a").rename(partial)
    (partial / "result.json").unlink()
    descriptor = os.open(partial, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    monkeypatch.setattr("aha.pipeline.runner.ORPHAN_DEADLINE", 0.1)
    with pytest.raises(AhaError, match=r"a\.partial is still in use by a process of an earlier run"):
        go(toy_recipe(), tmp_path / "run", only=["a"])
    monkeypatch.setattr("aha.pipeline.runner.ORPHAN_DEADLINE", 30.0)
    dies = threading.Timer(0.3, os.close, [descriptor])
    dies.start()
    go(toy_recipe(), tmp_path / "run", only=["a"])
    assert not dies.is_alive() and set(values(tmp_path / "run")) == {"a"}


def test_a_gpu_is_not_shared_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aha.pipeline.runner.usable_cores", lambda: 3)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert (default_jobs(1), default_jobs(2)) == (3, 1)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert default_jobs(1) == 1


def test_a_stage_with_more_threads_takes_the_place_of_several(tmp_path: Path) -> None:
    settings = toy_stages.Settings(steps=30, seconds=0.01)
    names = ("first", "wide", "narrow")
    costs, threads = {"first": 3.0, "wide": 2.0}, {"wide": 2}
    stages = [
        Stage(name, toy_stages.run, settings, cost=costs.get(name, 1.0), threads=threads.get(name)) for name in names
    ]
    recipe = Pipeline("p", 1, {"seed": 0}, tuple(stages))

    def order(jobs: int) -> list[str]:
        said = go(recipe, tmp_path / str(jobs), jobs).splitlines()
        assert "with 1 thread each (wide 2)" in said[0]
        assert [(tmp_path / str(jobs) / name / "threads").read_text() for name in names] == ["1", "2", "1"]
        return [" ".join(line.split()[:2]) for line in said if line.split()[1] in ("started", "done")]

    one_by_one = [f"{name} {word}" for name in names for word in ("started", "done")]
    assert order(1) == one_by_one  # more threads than there are for all: alone
    assert order(2) == one_by_one  # the narrow one does not overtake it
    assert order(3)[:2] == ["first started", "wide started"] and set(order(4)[:3]) == {f"{n} started" for n in names}


def test_only_and_from(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(UsageError, match="--only b needs stage 'a', which is missing"):
        go(toy_recipe(), folder, only=["b"])
    go(toy_recipe(), folder, only=["a", "c"])
    assert set(values(folder)) == {"a", "c"}
    go(toy_recipe(), folder)
    said = go(toy_recipe(), folder, redo_from=["d"])
    assert "1 stage to do" in said and "3 stages done already" in said
    taken = {planned.stage.name: planned.seconds for planned in plan_run(toy_recipe(), folder, redo_from=["c"])}
    assert min(taken["a"], taken["b"]) > 0 and taken["c"] == taken["d"] == 0  # what is redone begins at nothing
    said = go(toy_recipe(), folder, redo_from=["c"])
    assert [name for name in STAGES if f"{name} started" in said] == ["c", "d"]
    with pytest.raises(UsageError, match="did you mean"):
        alpha = Stage("alpha", toy_stages.run, toy_stages.Settings())
        go(Pipeline("p", 1, {"seed": 0}, (alpha,)), tmp_path / "x", only=["alpa"])


def test_folders_that_are_not_this_recipes_run_are_refused(tmp_path: Path) -> None:
    go(toy_recipe(), tmp_path / "run")
    other = Pipeline("other", 1, {"seed": 0}, toy_recipe().stages)
    newer = Pipeline("toy_recipe", 2, {"seed": 0}, toy_recipe().stages)
    for pipeline in (other, newer):
        with pytest.raises(AhaError, match="holds a run of recipe 'toy_recipe' version 1"):
            go(pipeline, tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(AhaError, match="is not a run folder"):
        go(toy_recipe(), tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"]


def test_a_damaged_ledger_is_named(tmp_path: Path) -> None:
    go(toy_recipe(), tmp_path / "run")
    stages = read_json(tmp_path / "run" / "ledger.json")["stages"]
    del stages["a"]["origin"]
    for damaged in ({"stages": stages}, []):
        write_json_atomic(tmp_path / "run" / "ledger.json", damaged)
        with pytest.raises(AhaError, match=r"ledger\.json: not a ledger .*; remove it to redo every stage"):
            go(toy_recipe(steps=6), tmp_path / "run")


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    go(toy_recipe(), folder)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(AhaError, match="is being worked on"):
            go(toy_recipe(), folder)
    go(toy_recipe(), folder)


def test_a_plan_writes_nothing(tmp_path: Path) -> None:
    plan = plan_run(toy_recipe(), tmp_path / "run")
    assert [(planned.stage.name, str(planned.status)) for planned in plan] == [(n, "missing") for n in "dcba"]
    assert not (tmp_path / "run").exists()


def test_a_crash_between_the_end_of_a_stage_and_its_rename_or_the_ledger_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    go(toy_recipe(), folder)
    before = values(folder)
    ledger = folder / "ledger.json"
    for renamed in (True, False):
        ledger.write_text(ledger.read_text().replace('"status": "done"', '"status": "partial"'))
        if not renamed:
            for name in STAGES:
                (folder / name).rename(folder / f"{name}.partial")
        said = go(toy_recipe(), folder)
        assert "continues" not in said and "started" not in said
        assert values(folder) == before and statuses(folder) == dict.fromkeys(STAGES, "done")


def drive(folder: Path, seconds: float) -> subprocess.Popen[str]:
    here = Path(__file__).parent
    paths = os.pathsep.join([str(Path(aha.__file__).parents[1]), str(here)])
    return subprocess.Popen(
        [sys.executable, str(here / "drive.py"), str(folder), "40", str(seconds)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(f"ended with code {process.wait()} before it said {words!r}")


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_killed_at_random_moments_it_ends_with_the_results_of_a_straight_run(
    tmp_path: Path, straight: dict[str, str]
) -> None:
    folder, rng = tmp_path / "run", random.Random(0)
    for _ in range(3):
        process = drive(folder, 0.02)
        wait_for(process, "stages to do")
        time.sleep(rng.uniform(0.0, 1.0))  # the four stages take 3.2 s: they are never done before the third kill
        process.kill()
        process.wait()
    go(toy_recipe(steps=40, seconds=0.02), folder)
    assert values(folder) == straight
    for name in STAGES:
        assert [row["step"] for row in read_jsonl(folder / name / "metrics.jsonl")] == list(range(1, 41))
    assert not list(folder.glob("*.partial"))


def test_a_killed_runner_takes_its_stages_along(tmp_path: Path) -> None:
    process = drive(tmp_path / "run", 60.0)
    wait_for(process, "a started")
    pid_file = tmp_path / "run" / "a.partial" / "pid"
    deadline = time.monotonic() + 20
    while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    pid = int(pid_file.read_text())
    process.kill()
    process.wait()
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(pid)


def test_ctrl_c_once_saves_and_the_run_continues(tmp_path: Path, straight: dict[str, str]) -> None:
    folder = tmp_path / "run"
    process = drive(folder, 0.05)
    wait_for(process, "a started")
    time.sleep(0.7)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 1 and "stopping: waiting for a to save" in output and "stopped; everything" in output
    assert statuses(folder) == {"a": "partial"}
    saved = read_json(folder / "a.partial" / "state.json")["step"]
    assert read_jsonl(folder / "a.partial" / "metrics.jsonl")[-1]["step"] == saved
    spent = read_json(folder / "ledger.json")["stages"]["a"]["seconds"]
    said = go(toy_recipe(steps=40, seconds=0.05), folder, only=["a"])
    assert "a continues" in said and values(folder)["a"] == straight["a"]
    assert read_json(folder / "ledger.json")["stages"]["a"]["seconds"] > spent + 0.05 * (40 - saved - 1)


def test_ctrl_c_twice_does_not_wait(tmp_path: Path) -> None:
    process = drive(tmp_path / "run", 60.0)
    wait_for(process, "a started")
    os.killpg(process.pid, signal.SIGINT)
    wait_for(process, "stopping")
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 1 and statuses(tmp_path / "run") == {"a": "partial"}
