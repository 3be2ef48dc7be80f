"""The recipes build, and every checkpoint starts where DeepSeek-R1's does."""

from __future__ import annotations

import inspect
import runpy
from pathlib import Path

import pytest

from aha.model.count import count_by_part
from aha.pipeline.graph import describe
from aha.pipeline.recipe import load_pipeline
from aha.stages import pretrain
from aha.stages.pretrain import model_config

RECIPES = Path(__file__).parents[1] / "recipes"
MODELS = {
    "base", "r1_zero", "random_reward", "dev1", "dev2", "dev3", "r1", "student_base", "student_rl", "student_distilled",
}  # fmt: skip


def edges(name: str, *arguments: str) -> dict[str, dict[str, str]]:
    _, pipeline = load_pipeline(str(RECIPES / f"{name}.py"), list(arguments))
    return {stage["name"]: stage["inputs"] for stage in describe(pipeline)["stages"]}


@pytest.mark.parametrize("recipe", ["r1_tiny", "r1_smoke"])
def test_the_toy_recipe_has_the_papers_edges(recipe: str) -> None:
    found = edges(recipe)
    assert MODELS | {f"{name}_eval" for name in MODELS} <= found.keys()
    starts = {name: found[name]["init"] for name in MODELS if "init" in found[name]}
    assert starts == {
        "r1_zero": "base",
        "random_reward": "base",
        "dev1": "base",
        "dev2": "dev1",
        "dev3": "base",
        "r1": "dev3",
        "student_rl": "student_base",
        "student_distilled": "student_base",
    }
    assert found["cold_start"]["policy"] == "r1_zero"
    assert found["rejection"]["policy"] == "dev2"
    for name in MODELS:
        assert found[f"{name}_eval"]["model"] == name


def test_the_evaluations_ask_the_same_with_the_same_seed() -> None:
    _, pipeline = load_pipeline(str(RECIPES / "r1_tiny.py"), [])
    seeds = {pipeline.seed_of(stage) for stage in pipeline.stages if stage.kind == "evaluate"}
    assert len(seeds) == 1
    others = {pipeline.seed_of(stage) for stage in pipeline.stages if stage.kind != "evaluate"}
    assert len(others) == sum(stage.kind != "evaluate" for stage in pipeline.stages)


def test_the_real_recipe_adds_your_own_problems_where_given(tmp_path: Path) -> None:
    plain, own = edges("r1_real"), edges("r1_real", f"problems={tmp_path / 'p.jsonl'}")
    assert plain.keys() < own.keys()
    assert own["r1_real"] == {"init": "arithmetic_rl", "problems": "arithmetic", "problems_own": "own"}
    assert own["cold_start"].keys() == {"init", "data", "data_own"}


def test_the_toy_with_v3s_architecture_goes_from_a_base_to_r1_zero() -> None:
    _, pipeline = load_pipeline(str(RECIPES / "v3_tiny.py"), [])
    found = edges("v3_tiny")
    assert found["r1_zero"] == {"init": "base", "problems": "problems"}
    assert {found[f"{name}_eval"]["model"] for name in ("base", "r1_zero")} == {"base", "r1_zero"}
    (base,) = (stage for stage in pipeline.stages if stage.name == "base")
    config = model_config(base.settings.shape, vocabulary=300, eos_token_id=2)
    assert config.latent_attention and config.num_nextn_predict_layers == 1
    assert [config.has_experts(layer) for layer in range(5)] == [False, True, True, True, True]
    dense = model_config(pretrain.Shape(), vocabulary=300, eos_token_id=2)
    assert count_by_part(config).active < 1.3 * count_by_part(dense).active


def test_what_the_authors_left_starts_where_the_rest_does() -> None:
    found = edges("unsuccessful_tiny", "seeds=2")
    arms = ("grpo", "process_rule", "prm", "rejection_sft", "mcts_sft")
    assert {found[f"{arm}_1"]["init"] for arm in arms} == {"base"}
    assert found["prm_0"]["scorer"] == found["mcts_sft_0_samples"]["scorer"] == "scorer"
    assert "scorer" not in found["process_rule_0"] and len(found["controls"]) == 1 + 5 * 2


def test_search_and_preferences_start_from_a_model_of_yours(tmp_path: Path) -> None:
    assert edges("search_tiny", f"policy={tmp_path}")["scorer"] == {"policy": "policy", "problems": "problems"}
    found = edges("preferences_real", f"pairs={tmp_path / 'p.jsonl'}")
    assert {found[name]["init"] for name in ("helpful", "safe", "dpo")} == {"untrained"}
    assert found["dpo"]["preferences"] == "pairs_dpo" and found["helpful"]["preferences"] == "pairs"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.py")), ids=lambda path: path.stem)
def test_a_run_says_what_its_recipe_was_called_with(path: Path) -> None:
    build = runpy.run_path(str(path))[path.stem]
    given = {name: "runs/mine/start" for name in ("model", "base", "policy", "pairs", "problems", "template")}
    given["template"] = "Q {question} A"
    assignments = [f"{name}={given[name]}" for name in inspect.signature(build).parameters if name in given]
    _, pipeline = load_pipeline(str(path), assignments)
    assert pipeline.arguments.keys() == inspect.signature(build).parameters.keys()
    assert {f"{name}={value}" for name, value in pipeline.arguments.items()} >= set(assignments)
    _, again = load_pipeline(str(path), [f"{name}={value}" for name, value in pipeline.arguments.items()])
    assert describe(again) == describe(pipeline)


def test_the_student_is_distilled_and_trained_directly_from_one_base() -> None:
    found = edges("distill_tiny", "seeds=2", "arms=direct_rl,distilled,logits")
    for number in range(2):
        assert found[f"direct_rl_{number}"] == {"init": "student_base", "problems": "problems"}
        assert found[f"distilled_{number}"] == {"init": "student_base", "data": "samples"}
        assert found[f"logits_{number}"] == {"init": "student_base", "data": "samples", "teacher": "teacher"}
    assert found["samples"] == {"policy": "teacher", "problems": "problems"}
    assert {"start", "teacher", "distilled/1"} <= found["distillation"].keys()
