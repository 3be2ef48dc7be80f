"""A model's card lists everything behind it down to the hashes of what came from outside; leaks are found at every
step; both are drawn."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from aha.data.dataset import Output, build
from aha.data.dedup import Dedup
from aha.data.lineage import LINEAGE, count_leaks, nodes_of, trained_on
from aha.evaluate.contamination import contamination, contamination_lines
from aha.pipeline.lineage import write_lineage
from aha.records import Problem
from aha.report.lineage import lineage_svg, merged, save_lineage, save_stats, stats_svgs
from aha.stages import foundation, problems, sft
from aha.stages.models import save_policy
from aha.testing import tiny_policy
from aha.util.files import read_json

ROWS = [{"id": str(i), "problem": f"A baker sells {i} loaves and {i} rolls in a day ; how many ?"} for i in range(9)]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({**row, "answer": "1"}) + "\n" for row in rows))
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """raw.jsonl -> data set -> problems -> two seeds of a model, as a run leaves them."""
    raw = write(tmp_path / "raw.jsonl", [*ROWS, ROWS[0]])
    build(Dedup(), [raw], Output(tmp_path / "union"), lambda *_: None)
    folder = tmp_path / "run"
    write(folder / "asked" / "train.jsonl", ROWS[:6])
    source = problems.Settings(source=tmp_path / "union")
    write_lineage("asked", "problems", source, 1, {}, folder / "asked", {"train": 6, "seconds": 9.9})
    for seed in range(2):
        out = folder / f"student_{seed}"
        save_policy(tiny_policy(seed=seed), out / "model")
        write_lineage(out.name, "sft", sft.Settings(), seed, {"data": folder / "asked"}, out, {"loss": 0.5})
    stages = [{"name": name} for name in ("asked", "student_0", "student_1", "later")]
    (folder / "recipe.json").write_text(json.dumps({"stages": stages}))
    return folder


def test_a_models_card_goes_down_to_the_hashes_of_the_sources(run: Path) -> None:
    card = read_json(run / "student_1" / "model" / "card.json")
    weights = (run / "student_1" / "model" / "model.safetensors").read_bytes()
    assert card["stage"]["files"] == {"model/model.safetensors": hashlib.sha256(weights).hexdigest()}
    (data,) = card["ancestors"]["asked"]["data"]
    raw = hashlib.sha256((run.parent / "raw.jsonl").read_bytes()).hexdigest()
    assert data["plan"]["sources"][0]["sha256"] == raw
    assert card["ancestors"]["asked"]["made"] == {"train": 6}  # no times: made again it is the same
    text = (run / "student_1" / "model" / "README.md").read_text()
    assert raw[:16] in text and "| asked | problems | train 6 |" in text and "10 in, 9 kept" in text
    (run / "student_1" / LINEAGE).unlink()
    names = [Path(node.name).name for node in nodes_of(run / "student_1" / "model")]
    assert names == ["raw.jsonl", "union", "asked", "student_1"]


def test_a_copied_model_keeps_its_history(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "other" / "untrained"
    (out / "model").mkdir(parents=True)
    settings = foundation.Settings(folder=run / "student_0" / "model", template="{question}")
    write_lineage("untrained", "foundation", settings, 0, {}, out, {})
    assert read_json(out / "model" / "card.json")["ancestors"].keys() == {"asked", "student_0"}


def test_leaks_are_counted_where_they_are_and_in_what_follows(run: Path, tmp_path: Path) -> None:
    bench = write(tmp_path / "bench.jsonl", [ROWS[2], {"id": "new", "problem": "Who was first ?"}])
    nodes = nodes_of(run)
    leaks = {Path(name).name: count for name, count in count_leaks(nodes, [bench]).items()}
    assert leaks == {"raw.jsonl": 10, "union": 9, "asked": 6}  # all share "rolls in a day ; how many ?"
    asked = ROWS[2]["problem"]
    texts = {"a": f"So {asked}", "b": f"Oh {asked}", "c": asked}
    twins = [Problem(name, text, "1", "number") for name, text in texts.items()]
    found = contamination({"b": twins}, trained_on(run / "student_0") or [])
    assert found == {"b": {"questions": 3, "leaked": 3, "equal": 1, "such_as": ["c", "a", "b"]}}
    (line,) = contamination_lines({"files": 1, "benches": found}, run)
    assert line.startswith("contamination of b: 3 of 3 questions") and "1 are equal" in line
    other = [Problem("9", "Which word is it ?", "1", "number")]
    assert contamination({"b": other}, [run / "asked" / "train.jsonl"])["b"]["leaked"] == 0
    short = write(tmp_path / "short.jsonl", [{"id": "0", "problem": "Which word is it ?"}])  # of fewer than 8 words
    assert contamination({"b": other}, [short])["b"] == {"questions": 1, "leaked": 1, "equal": 1, "such_as": ["9"]}
    assert trained_on(tmp_path) is None and "not known" in contamination_lines(None, tmp_path)[0]


def test_pictures(run: Path, tmp_path: Path) -> None:
    nodes = nodes_of(run)
    assert [(node.name, node.note) for node in merged(nodes)][-1] == ("student", "2 seeds")
    svg = lineage_svg(nodes)
    assert all(text in svg for text in (">asked<", ">student<", ">2 seeds<", "raw.jsonl"))
    save_lineage(nodes, tmp_path / "a.png", {"asked": 3})
    rows = {"words": {"mean": 3.0, "quantiles": {"50": 3}, "edges": [0, 1, 2, 4], "counts": [0, 0, 5]}}
    stats = {"lengths": rows, "groups": {"task": {"a": 3, "b": 2}, "one": {"x": 5}}, "pass_rates": [1] * 10}
    save_stats(stats, tmp_path / "b.png")
    assert [title for title, _ in stats_svgs(stats)] == ["Words of the words", "Rows by task", "Pass rate"]
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("a.png", "b.png"))
