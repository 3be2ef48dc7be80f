"""Tasks for lm-evaluation-harness ask what ``aha evaluate`` asks; its logged samples are graded by our rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aha.evaluate.benches import Bench, load_bench
from aha.stages.assess import Sampling
from aha.stages.assessed import evaluate_model
from aha.stages.models import save_policy
from aha.testing import byte_tokenizer, tiny_policy
from aha.util.files import read_jsonl
from benchmarks.harness import compare, write_task


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps({"problem": f"1 + {i}", "answer": f"{i + 1}"}) + "\n" for i in range(4)))
    return path


def test_the_harness_asks_and_says_what_we_do(rows: Path, tmp_path: Path) -> None:
    policy = tiny_policy(tokenizer=byte_tokenizer(), template="Q: {question} A:")
    save_policy(policy, tmp_path / "model")
    bench = f"gsm8k={rows}"
    task = write_task(tmp_path / "model", bench, tmp_path / "task", template=None, limit=3, max_new_tokens=9)
    assert "max_gen_toks: 9" in task.read_text() and "task: aha_gsm8k\n" in task.read_text()
    docs = read_jsonl(task.with_suffix(".jsonl"))
    problems = load_bench(bench, limit=3)
    assert [doc["prompt"] for doc in docs] == [policy.renderer.prompt_text(problem.prompt) for problem in problems]
    texts = ["so \\boxed{1}", "the answer is 2", "\\boxed{2} and 3"]  # golds 1, 2, 3
    said = {"boxed": ["1", "[invalid]", "2"], "flexible-extract": ["1", "2", "3"]}
    samples = tmp_path / "out" / "samples_aha_gsm8k_2026-11-21T19-30-19.jsonl"
    samples.parent.mkdir()
    logged = [
        {
            "doc": {**docs[i], "problem": {**docs[i]["problem"], "meta": {"level": None}}},
            "resps": [[texts[i]]],
            "filter": name,
            "exact_match": float(found[i] == docs[i]["answer"]),
        }
        for name, found in said.items()
        for i in range(3)
    ]
    samples.write_text("".join(json.dumps(row) + "\n" for row in logged))
    benches = [Bench(bench, tuple(problems), 1, 3)]
    evaluate_model(
        tmp_path / "model", policy, benches, Sampling(0.0, 1.0), keep=tmp_path / "kept", progress=lambda _: None
    )
    found = compare(samples, tmp_path / "kept")
    assert found["problems"] == 3 and found["aha"]["value"] == pytest.approx(2 / 3)
    boxed, flexible = found["filters"]["boxed"], found["filters"]["flexible-extract"]
    assert (boxed["agree"], boxed["ours_alone"], boxed["theirs_alone"]) == (2, 1, 0)  # "the answer is" is ours
    assert (flexible["agree"], flexible["ours_alone"], flexible["theirs_alone"]) == (2, 0, 1)  # a number is no answer
    assert found["evaluate"]["same_text"] == 0 and found["evaluate"]["minus_harness"]["value"] < 0
