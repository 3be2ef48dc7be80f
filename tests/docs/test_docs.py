"""The documentation is true: blocks run, commands parse, links resolve, and generated blocks are current."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main

from aha.cli import app
from aha.config import canonical
from aha.errors import UsageError
from aha.evaluate import runner
from aha.pipeline.graph import describe
from aha.pipeline.recipe import load_pipeline
from aha.stages import evaluate, rl_metrics
from aha.train.nll_step import nll_step
from aha.train.reward_step import preference_step
from aha.util.files import read_json, write_json_atomic
from building.blocks import BLOCK, pages, render
from building.results import load_results
from building.runs import take

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(
    r"^(<!-- no-run: (?P<reason>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
PRINTS = re.compile(r"^print\(.*\)  # (.*)$", re.MULTILINE)
PAGES = pages(ROOT)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    body: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(language: str) -> Iterator[Block]:
    """The blocks of a language that are not marked ``<!-- no-run: reason -->``."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match["language"] == language and not match["reason"]:
                yield Block(page, text.count("\n", 0, match.start()) + 1, match["body"])


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_block_runs_and_prints_what_it_says(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block.body, str(block), "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out.splitlines()
    assert printed == PRINTS.findall(block.body)


def command_lines() -> Iterator[Any]:
    for block in blocks("console"):
        for text in block.body.replace("\\\n", " ").splitlines():
            if text.startswith("$ "):
                yield pytest.param(text[2:], id=f"{block} {text[2:]}")


@pytest.mark.parametrize("line", command_lines())
def test_console_line_is_a_command_that_exists(line: str) -> None:
    words = shlex.split(line.partition(" > ")[0])
    if words[0] == "make":
        targets = re.findall(r"^([\w/.-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
    elif words[0] == "python":
        script = words[2].replace(".", "/") + ".py" if words[1] == "-m" else words[1]
        assert (ROOT / script).is_file()
    else:
        assert words[0] == "aha", "mark a block that cannot be checked with <!-- no-run: reason -->"
        group: Any = typer.main.get_command(app)
        context = group.commands[words[1]].make_context(words[1], words[2:])  # parses all of it, runs nothing
        if words[1] == "run":
            _, pipeline = load_pipeline(context.params["recipe"], context.params["assignments"] or [])
            for name in [*(context.params["only"] or []), *(context.params["start_from"] or [])]:
                pipeline.stage(name)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name} links to {target}, which does not exist"
        assert there.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(there), f"{page.name} links to {target}, a heading that does not exist"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        reached.add(page)
        targets = re.findall(r"\]\(([^)\s#]+\.md)", page.read_text(encoding="utf-8"))
        linked = {(page.parent / target).resolve() for target in targets if not target.startswith("http")}
        todo += linked - reached
    assert set(PAGES) <= reached


def test_a_benchmark_is_started_as_a_module_that_has_a_main() -> None:
    """As a file it would not find the other files of ``benchmarks``."""
    texts = [path.read_text(encoding="utf-8") for path in (*PAGES, *(ROOT / "benchmarks").glob("*.py"))]
    named = {name for text in texts for name in re.findall(r"python -m benchmarks\.(\w+)", text)}
    assert named and not any("python benchmarks/" in text for text in texts)
    for name in named:
        assert "__main__" in (ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")


def test_generated_blocks_are_current() -> None:
    made = render(ROOT)
    stale = [str(path.relative_to(ROOT)) for path in made if path.read_text(encoding="utf-8") != made[path]]
    assert not stale, "run python docs/build.py and look at what changes"


def test_a_row_of_a_generated_table_is_one_line() -> None:
    blocks = [match[3] for page in PAGES for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]
    tables = [lines for block in blocks for lines in block.split("\n\n") if lines.startswith("|")]
    broken = [line for lines in tables for line in lines.splitlines() if not (line.startswith("|") and line[-1] == "|")]
    assert tables and not broken


def test_results_are_there_for_every_block_made_from_runs() -> None:
    assert list((ROOT / "docs" / "results").glob("*.json")), "docs/build.py RUN takes over a finished run"
    found = [match for page in PAGES for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]
    empty = [match[2] for match in found if not match[3]]
    recipes = load_results(ROOT)
    assert not [name for name in empty if name in ("demo", "figure") or name.partition("-")[0] in recipes]


def logged_keys(function: Any) -> set[str]:
    """The keys of the dict displays and the names that a function assigns by subscript."""
    keys = set()
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if isinstance(node, ast.Dict):
            keys |= {key.value for key in node.keys if isinstance(key, ast.Constant)}
        elif isinstance(node, ast.Assign):
            for target in ast.walk(ast.Tuple(node.targets, ast.Store())):
                if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
                    keys.add(target.slice.value)
        elif isinstance(node, ast.DictComp) and isinstance(node.generators[0].iter, ast.Tuple):
            keys |= {key.value for key in node.generators[0].iter.elts if isinstance(key, ast.Constant)}
    return {key for key in keys if isinstance(key, str)}


def test_every_logged_metric_is_explained() -> None:
    functions = (rl_metrics.step_metrics, nll_step, preference_step, runner.reasoning_metrics, evaluate.run)
    logged = set().union(*map(logged_keys, functions)) - {"reference", "updates", "last"}  # of the state
    assert {"mismatch_kl", "clip_high", "lr", "votes", "by_task", "general", "margin"} <= logged
    explained = set(re.findall(r"`([^`\s]+)`", (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")))
    assert logged <= explained, f"docs/metrics.md does not explain {sorted(logged - explained)}"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The pages and the recipes' figures in another root, without any results."""
    for page in PAGES:
        target = tmp_path / page.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(page, target)
    return tmp_path


def make_run(folder: Path, *, seed: int = 0, skipped: str = "") -> Path:
    """A finished run of ``r1_tiny`` as its files say it; without the result of the stage ``skipped``."""
    pipeline = load_pipeline("r1_tiny", [f"seed={seed}"])[0]
    write_json_atomic(folder / "recipe.json", describe(pipeline))
    for number, stage in enumerate(pipeline.stages):
        if stage.name == skipped:
            continue
        metrics: dict[str, Any] = {"loss": 1.0}
        if stage.kind == "evaluate":
            value = (number % 7) / 10 + 0.1 + seed / 100
            measure = {"value": value, "low": value - 0.05, "high": value + 0.05}
            metrics = {"pass@1": measure, "cons@16": measure, "length": measure}
        write_json_atomic(folder / stage.name / "result.json", {"metrics": metrics})
    return folder


def test_build_fills_the_blocks_from_a_run_and_changes_nothing_the_second_time(tmp_path: Path, copy: Path) -> None:
    for seed in (1, 0):
        run = make_run(tmp_path / f"run{seed}", seed=seed)
        before = sorted(run.rglob("*"))
        taken = take(run, copy)
        assert sorted(run.rglob("*")) == before, "a run folder is only read"
        assert read_json(taken)["seed"] == seed
    filled = render(copy)
    readme, tiny = filled[copy / "README.md"], filled[copy / "docs" / "r1_tiny.md"]
    assert "![" in readme and (copy / "docs" / "figures" / "r1_tiny.png").stat().st_size > 0
    assert "| R1-Zero |" in readme and "report: runs/r1_tiny/report.html" in readme
    assert "seed 0 | seed 1 |" in tiny
    for path, text in filled.items():
        path.write_text(text, encoding="utf-8")
    assert render(copy) == filled


def test_build_refuses_an_unfinished_run_and_one_with_other_settings(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(UsageError, match="not finished: r1;"):
        take(make_run(tmp_path / "unfinished", skipped="r1"), copy)
    run = make_run(tmp_path / "other")
    recipe = canonical(read_json(run / "recipe.json"))
    next(stage for stage in recipe["stages"] if stage["name"] == "r1_zero")["settings"]["steps"] = 3
    write_json_atomic(run / "recipe.json", recipe)
    with pytest.raises(UsageError, match=r"r1_zero\.steps 3 -> "):
        take(run, copy)


def test_build_refuses_a_marker_that_nobody_fills(copy: Path) -> None:
    (copy / "docs" / "metrics.md").write_text("<!-- generated:nothing -->\n<!-- /generated -->\n", encoding="utf-8")
    with pytest.raises(UsageError, match="no generated block 'nothing'"):
        render(copy)
