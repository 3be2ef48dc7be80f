"""Recipes are found by name or path and called with typed arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

from aha.config import canonical
from aha.errors import SettingError, UsageError
from aha.pipeline.graph import describe
from aha.pipeline.recipe import find_recipe, load_pipeline

TOY = str(Path(__file__).with_name("toy_recipe.py"))


def test_arguments_are_typed_and_settings_follow() -> None:
    own, pipeline = load_pipeline(TOY, ["seed=3", "seconds=1", "b.steps=9"])
    assert pipeline.arguments == {"seed": 3, "steps": 5, "seconds": 1.0}
    assert own.stage("b").settings.model_dump()["steps"] == 5
    assert pipeline.stage("b").settings.model_dump()["steps"] == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed=3", "recipe 'toy_recipe' has no argument 'sed': did you mean 'seed'"),
        ("seed=x", "seed=x: .*integer"),
        ("seed", "expected argument=value"),
    ],
)
def test_wrong_assignments(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        load_pipeline(TOY, [text])


def test_names_are_looked_up_in_the_current_directory_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    mine = tmp_path / "recipes" / "my_recipe.py"
    mine.write_text(Path(TOY).read_text().replace("toy_recipe", "my_recipe"))
    monkeypatch.chdir(tmp_path)
    assert find_recipe("my_recipe") == find_recipe("my-recipe") == mine
    ours = find_recipe("r1_tiny")
    assert ours.parent != mine.parent
    (tmp_path / "recipes" / "r1_tiny.py").write_text("")
    assert find_recipe("r1_tiny") == tmp_path / "recipes" / "r1_tiny.py" != ours
    with pytest.raises(UsageError, match="no recipe 'my_recipee': did you mean 'my_recipe'"):
        find_recipe("my_recipee")
    with pytest.raises(UsageError, match="does not exist"):
        find_recipe("nowhere/x.py")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def odd(:", r"odd\.py, line 1: SyntaxError: "),
        ("\nimport nowhere_at_all", r"odd\.py, line 2: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("def odd(*, seed: int = 0):\n    return 1 / 0", r"odd\.py, line 2: ZeroDivisionError"),
        ("def odd(*, seed: int): ...", r"odd\.py: TypeError: .*seed"),
        ("def odd(*, seed: int = 0): return {}", r"odd\.py: odd\(\) returned dict: a recipe returns a Pipeline"),
    ],
)
def test_an_error_in_a_recipe_file_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "odd.py"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_pipeline(str(path), [])


def test_an_argument_without_a_type_is_named(tmp_path: Path) -> None:
    path = tmp_path / "odd.py"
    path.write_text("def odd(*, seed=0): ...")
    with pytest.raises(UsageError, match=r"argument 'seed' of .*odd\.py has no type to read '3' as: annotate it"):
        load_pipeline(str(path), ["seed=3"])


def test_a_recipe_file_must_hold_its_function_and_no_stage_functions(tmp_path: Path) -> None:
    path = tmp_path / "odd.py"
    path.write_text("def even(): ...")
    with pytest.raises(UsageError, match="has no function 'odd'"):
        load_pipeline(str(path), [])
    path.write_text(
        "from aha.pipeline.graph import Pipeline, Stage\nfrom toy_stages import Settings\n"
        "def work(settings, inputs, context): ...\n"
        "def odd(*, seed: int = 0): return Pipeline('odd', 1, {'seed': seed}, (Stage('a', work, Settings()),))\n"
    )
    with pytest.raises(UsageError, match="move the function to a module"):
        load_pipeline(str(path), [])


def test_what_a_pipeline_records_makes_it_again() -> None:
    template = "### Question\n{question}\n### Answer\n"
    _, made = load_pipeline("r1_real", [f"template={template}", "own_examples=3"])
    recorded = [f"{name}={value}" for name, value in made.arguments.items() if value != ""]
    _, again = load_pipeline("r1_real", recorded)
    assert again.arguments["template"] == template
    assert canonical(describe(again)) == canonical(describe(made))
