"""``aha data`` from raw files to a mix, as a script runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aha
from aha.cli import main
from aha.util.files import read_jsonl

Data = Callable[..., Any]


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Data:
    """``aha data ... --json`` in this process: what it printed, which must be one JSON object, or its exit code."""

    def run(*words: object) -> Any:
        monkeypatch.setattr(sys, "argv", ["aha", "data", *map(str, words), "--json"])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return json.loads(out) if end.value.code in (0, None) else (end.value.code, err)

    return run


def test_from_raw_files_to_a_mix(tmp_path: Path, data: Data) -> None:
    sums = [{"question": f"What is {i} + {i}?", "answer": 2 * i} for i in range(40)]
    wrong = [{"question": "What is 1 + 2?", "answer": "many"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, [*sums, *sums[:5], *wrong])) + "\n{\n")
    (tmp_path / "b.csv").write_text("problem,answer\n" + "".join(f"What is {i} - {i}?,0\n" for i in range(20)))
    (tmp_path / "bench.jsonl").write_text(json.dumps({"problem": "what is 7 + 7?"}))
    found = data("dedup", tmp_path / "a.jsonl", "--out", tmp_path / "union")
    assert found["counts"] == {"in": 47, "kept": 41, "removed": {"duplicate": 5}, "rejected": 1}
    found = data("verify", tmp_path / "union", "--out", tmp_path / "right")
    assert found["counts"]["removed"] == {"wrong gold": 1}
    against = "--against", tmp_path / "bench.jsonl"
    found = data("decontaminate", tmp_path / "right", *against, "--out", tmp_path / "clean")
    assert found["counts"]["removed"] == {"equal to a benchmark's question": 1}
    found = data("filter", tmp_path / "clean", "--language", "en", "--out", tmp_path / "english")
    assert found["counts"]["kept"] == 39
    found = data("split", tmp_path / "english", "--test", "0.25", "--out", tmp_path / "parts")
    assert sum(found["kept"].values()) == 39 and found["kept"]["test"] >= 2
    weights = f"{tmp_path / 'parts' / 'train'}=1", f"{tmp_path / 'b.csv'}=1"
    found = data("mix", *weights, "--total", 20, "--out", tmp_path / "mixed", "--format", "parquet")
    assert sorted(found["by_source"].values()) == [10, 10]
    assert data("stats", tmp_path / "mixed")["rows"] == 20
    card = data("lineage", tmp_path / "mixed")["card"]
    names = []
    while card["parents"]:
        ((folder, card),) = card["parents"].items()
        names.append(Path(folder).name)
    assert names == ["train", "english", "clean", "right", "union"]
    assert [Path(source["file"]).name for source in card["plan"]["sources"]] == ["a.jsonl"]
    (rejected,) = read_jsonl(tmp_path / "union" / "rejected.jsonl")
    assert rejected["line"] == 47 and "not JSON" in rejected["why"]


def test_wrong_usage_is_said(tmp_path: Path, data: Data) -> None:
    (tmp_path / "a.jsonl").write_text('{"problem": "a", "answer": 1}\n')
    assert data("mix", "a.jsonl", "--out", tmp_path / "x")[0] == 2
    code, said = data("verify", tmp_path / "a.jsonl", "--task", "maths", "--out", tmp_path / "x")
    assert code == 2 and "did you mean 'math'?" in said
    a = tmp_path / "a.jsonl"
    for words, wrong in (
        (("mix", f"{a}=1", f"{a}=3", "--out", tmp_path / "x"), "has two weights: name it once"),
        (("mix", f"{a}=nan", "--out", tmp_path / "x"), "all must be finite and above 0"),
        (("stats", a, "--picture", tmp_path / "x.txt"), "it ends with none of .png, .svg, .pdf"),
        (("lineage", tmp_path, "--picture", tmp_path / "x"), "it ends with none of .png, .svg, .pdf"),
    ):
        code, said = data(*words)
        assert code == 2 and wrong in said
    code, said = data("stats", tmp_path / "no.jsonl")
    assert code == 1 and "no such file" in said
    (tmp_path / "full").mkdir()
    code, said = data("dedup", tmp_path / "a.jsonl", "--out", tmp_path / "full")
    assert code == 2 and "choose another" in said and not list((tmp_path / "full").iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ("dedup",), ("decontaminate", "--against", "good.jsonl"), ("filter",), ("verify",), ("select", "--count", 1),
        ("split",), ("stats",), ("mix", "good.jsonl=1"), ("reject", "--endpoint", "http://127.0.0.1:9", "--name", "t"),
    ],
    ids=lambda words: words[0],
)  # fmt: skip
@pytest.mark.parametrize(
    ("text", "said"), [("", "b.jsonl: no rows"), ('{"frage": "q"}\n', "b.jsonl:1: no question")], ids=["empty", "wrong"]
)
def test_every_command_says_why_no_row_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Data, words: tuple[object, ...], text: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.jsonl").write_text('{"problem": "a", "answer": 1}\n')
    (tmp_path / "b.jsonl").write_text(text)
    name = "b.jsonl=1" if words[0] == "mix" else "b.jsonl"
    code, err = data(words[0], name, *words[1:], *(() if words[0] == "stats" else ("--out", "out")))
    assert code == 1 and said in err and not list(tmp_path.rglob("card.json"))


def test_help_needs_nothing_heavy() -> None:
    names = ("dedup", "decontaminate", "filter", "verify", "select", "split", "mix", "stats", "lineage")
    script = (
        "import sys\nfrom aha.cli import app\n"
        f"for name in {names!r}:\n"
        "    assert app(['data', name, '--help'], standalone_mode=False) in (0, None)\n"
        "heavy = {'torch', 'transformers', 'pyarrow', 'numpy', 'rapidfuzz', 'sympy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    paths = [str(Path(aha.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Example: aha data ") == len(names)
