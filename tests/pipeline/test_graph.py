"""Pipelines as values: what is refused, the order of work, overrides, fingerprints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import toy_stages
from toy_recipe import toy_recipe

from aha.config import Frozen, fingerprint
from aha.errors import SettingError, UsageError
from aha.pipeline import fingerprint as fingerprints
from aha.pipeline.fingerprint import PACKAGE, compute_origins, differences, hash_code, hash_files, imported_files
from aha.pipeline.graph import Pipeline, Stage, override, topological

SETTINGS = toy_stages.Settings()


def stage(name: str, **inputs: Stage) -> Stage:
    return Stage(name, toy_stages.run, SETTINGS, inputs)


def pipeline(*stages: Stage) -> Pipeline:
    return Pipeline("p", 1, {"seed": 0}, stages)


def cyclic() -> Pipeline:
    inputs: dict[str, Stage] = {}
    first = Stage("first", toy_stages.run, SETTINGS, inputs)
    inputs["back"] = Stage("second", toy_stages.run, SETTINGS, {"there": first})
    return pipeline(first, inputs["back"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pipeline(stage("a"), stage("a")), "two stages named 'a'"),
        (lambda: pipeline(stage("b", model=stage("a"))), "input 'model' of stage 'b' is 'a', not in the pipeline"),
        (cyclic, "first, second wait for each other"),
        (lambda: stage("../a"), "becomes a folder"),
        (lambda: Stage("a", lambda: None, SETTINGS), "top level of a module"),
        (lambda: Pipeline("p", 1, {}, ()), "no argument 'seed'"),
        (lambda: toy_recipe().stage("e"), "has no stage 'e'"),
    ],
)
def test_what_cannot_run_is_refused_when_it_is_made(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_order_downstream_and_longest_path() -> None:
    recipe = toy_recipe()
    assert [each.name for each in topological(recipe.stages)] == ["a", "c", "b", "d"]
    assert recipe.downstream(["b"]) == {"b", "d"} and recipe.downstream(["a"]) == {"a", "b", "c", "d"}
    assert recipe.remaining_cost() == {"a": 4.0, "b": 2.0, "c": 3.0, "d": 1.0}


def test_the_longest_path_counts_whichever_is_named_last() -> None:
    first = stage("first")
    short = Stage("short", toy_stages.run, SETTINGS, {"in": first})
    long = Stage("long", toy_stages.run, SETTINGS, {"in": first}, cost=5.0)
    for order in ((first, short, long), (first, long, short)):
        assert pipeline(*order).remaining_cost() == {"first": 6.0, "short": 1.0, "long": 5.0}


def test_override_changes_one_stage_and_keeps_the_edges() -> None:
    changed = override(toy_recipe(), ["b.steps=7", "b.seconds=0.5"])
    assert changed.stage("b").settings == toy_stages.Settings(steps=7, seconds=0.5)
    assert changed.stage("c").settings == toy_recipe().stage("c").settings
    assert changed.stage("d").inputs["left"] is changed.stage("b")
    for text, message in [
        ("bb.steps=7", "no stage 'bb' in 'toy_recipe': did you mean 'b'"),
        ("b.stps=7", "b has no setting 'stps': did you mean 'steps'"),
        ("b.steps", "expected stage.key=value"),
        ("b=7", "expected stage.key=value"),
    ]:
        with pytest.raises(SettingError, match=message):
            override(toy_recipe(), [text])


def test_fingerprints_follow_settings_inputs_seed_threads_and_code() -> None:
    def marks(recipe: Pipeline, sources: str = "s") -> dict[str, str]:
        return {name: fingerprint(origin) for name, origin in compute_origins(recipe, lambda run: sources).items()}

    def moved(other: dict[str, str]) -> str:
        return "".join(name for name in "abcd" if other[name] != base[name])

    base = marks(toy_recipe())
    assert moved(marks(toy_recipe())) == ""
    assert moved(marks(override(toy_recipe(), ["b.steps=7"]))) == "bd"
    assert moved(marks(toy_recipe(seed=1))) == "abcd"
    assert moved(marks(toy_recipe(), "t")) == "abcd"
    more_threads = Pipeline("toy_recipe", 1, toy_recipe().arguments, toy_recipe().stages, threads=2)
    assert moved(marks(more_threads)) == "abcd"


def test_a_stage_with_threads_of_its_own_moves_alone() -> None:
    def origins(threads: int | None) -> dict[str, dict[str, Any]]:
        first = stage("first")
        wide = Stage("wide", toy_stages.run, SETTINGS, {"in": first}, threads=threads)
        return compute_origins(replace(pipeline(first, wide, stage("other")), threads=3), lambda run: "s")

    same, other = origins(None), origins(2)
    assert {name: origin["threads"] for name, origin in same.items()} == {"first": 3, "wide": 3, "other": 3}
    assert {name: origin["threads"] for name, origin in other.items()} == {"first": 3, "wide": 2, "other": 3}
    assert differences(same["wide"], other["wide"]) == ["threads 3 -> 2"]
    assert same["first"] == other["first"] and same["other"] == other["other"]


def test_differences_are_said_in_words() -> None:
    old = compute_origins(toy_recipe(), lambda run: "s")["d"]
    new = compute_origins(override(toy_recipe(seed=3), ["d.steps=7", "b.steps=6"]), lambda run: "t")["d"]
    words = ["steps 5 -> 7", "input left changed", "input right changed", "seed 0 -> 3", "source code of aha changed"]
    assert differences(old, new) == words and differences(old, old) == []


def test_a_seed_name_shares_the_randomness_of_two_stages() -> None:
    twins = pipeline(stage("a"), Stage("b", toy_stages.run, SETTINGS, seed_name="a"), stage("c"))
    a, b, c = (twins.seed_of(each) for each in twins.stages)
    assert a == b != c


def test_the_hash_of_code_sees_what_a_stage_imports_starts_or_compiles_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "aha"
    files = {
        "__init__.py": "",
        "stages/__init__.py": "",
        "stages/rl.py": "from aha.model import decoder\nfrom aha.objective.kl import (\n    k3,\n)\n",
        "model/__init__.py": "",
        "model/decoder.py": "def build():\n    import aha.model.rope\n",
        "model/kernels.c": "1",
        "model/vectors.h": "1",
        "model/rope.py": "1",
        "objective/kl.py": "POOL = 'aha.tasks.symbolic:compare'\nCODE = 'import x; from aha.reward import inside'",
        "tasks/symbolic.py": "from aha.tasks import deep",
        "tasks/deep.py": "1",
        "tasks/chain.py": "1",
        "reward/inside.py": "import aha.reward.confine",
        "reward/confine.py": "1",
        "report/page.py": "1",
        "report/page.c": "1",
        "cli.py": "import aha.stages.rl",
    }
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    monkeypatch.setattr("aha.pipeline.fingerprint.PACKAGE", package)
    monkeypatch.setattr("aha.pipeline.fingerprint.inspect.getfile", lambda run: str(package / "stages/rl.py"))

    def changed(name: str) -> bool:
        before = hash_code(toy_stages.run)
        (package / name).write_text(files[name] + "\n")
        return hash_code(toy_stages.run) != before

    assert [name for name in files if changed(name)] == [
        "stages/rl.py", "model/__init__.py", "model/decoder.py", "model/kernels.c", "model/vectors.h", "model/rope.py",
        "objective/kl.py", "tasks/symbolic.py", "tasks/deep.py", "reward/inside.py", "reward/confine.py",
    ]  # fmt: skip


def test_a_stage_of_aha_depends_on_what_it_computes_with() -> None:
    names = {str(path.relative_to(PACKAGE)) for path in imported_files(PACKAGE / "stages" / "rl.py")}
    assert {"stages/rl.py", "objective/policy.py", "model/decoder.py", "reward/rules.py", "tasks/chain.py"} <= names
    assert {"tasks/symbolic.py", "tasks/gym_scores.py", "util/worker.py"} <= names
    assert {"reward/inside.py", "reward/confine.py"} <= names
    assert {"rollout/native/kernels.c", "model/kernels.c", "model/attention/attention.c", "util/vectors.h"} <= names
    assert not {"cli.py", "doctor.py", "report/page.py", "stages/sft.py", "evaluate/benches.py"} & names


class FromFile(Frozen):
    source: Path


def test_what_a_file_holds_and_is_called_is_the_input_and_not_where_it_lies(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "elsewhere" / "a.jsonl"
    second.parent.mkdir()
    first.write_text("1")
    second.write_text("1")

    def origin(path: Path) -> dict[str, Any]:
        return compute_origins(pipeline(Stage("a", toy_stages.run, FromFile(source=path))), lambda run: "s")["a"]

    before = origin(first)
    assert origin(second) == before != origin(second.rename(tmp_path / "b.jsonl"))
    first.write_text("2")
    assert differences(before, origin(first)) == ["content of source changed"]
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w").write_text("1")
    before = origin(folder)
    (folder / "w").write_text("2")
    assert differences(before, origin(folder)) == ["content of source changed"]
    (folder / "w").write_text("1")
    (folder / "x").mkdir()
    (folder / "w").rename(folder / "x" / "w")
    assert differences(before, origin(folder)) == ["content of source changed"]
    before = origin(tmp_path / "*.jsonl")
    (tmp_path / "b.jsonl").write_text("3")
    assert differences(before, origin(tmp_path / "*.jsonl")) == ["content of source changed"]


def test_of_a_large_file_its_size_and_both_ends_are_the_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "_WHOLE", 10)
    monkeypatch.setattr(fingerprints, "_END", 2)
    path = tmp_path / "large"

    def found(text: str) -> dict[str, str]:
        path.write_text(text)
        return hash_files(FromFile(source=path))

    large = found("ab-------yz")
    assert found("ab=======yz") == large  # the middle is not read
    assert all(found(text) != large for text in ("xb-------yz", "ab-------yx", "ab------yz", "ab--------yz"))
    assert found("ab------yz") != found("ab---x--yz")  # ten bytes are read whole
