"""``aha data reject`` from the command line: what it keeps and says, and what it refuses to throw away."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from teachers import ScriptedTeacher, serving

from aha.cli import main
from aha.data.dataset import Output, build
from aha.data.dedup import Dedup
from aha.stages.models import save_policy
from aha.testing import tiny_policy
from aha.util.files import read_jsonl


def reject(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    monkeypatch.setattr(sys, "argv", ["aha", "data", "reject", *map(str, words), "--json"])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    return json.loads(out) if end.value.code in (0, None) else err


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"question": f"What is {a} + 1?", "answer": a + 1} for a in range(3)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    failing = True

    def answer(content: str, seed: int) -> str:
        return f"<think> hm . </think> <answer> {int(content.split()[-3]) + 1 if seed % 2 else 0} </answer>"

    teacher = ScriptedTeacher(answer, lambda content, seed: ["403"] if failing and "2 +" in content else [])
    with serving(teacher) as url:
        asked = "--endpoint", url, "--name", "t", "--prompt", "Please: {question}", "--price", "1,2", "--at-once", 1
        words = tmp_path / "a.jsonl", *asked, "--samples", 6, "--one", "--out", tmp_path / "out"
        assert "status 403" in reject(monkeypatch, capsys, *words)
        paid = sum(teacher.billed.values())
        assert 0 < paid < 18 and not (tmp_path / "out").exists()
        said = reject(monkeypatch, capsys, *words, "--temperature", 1)
        assert "were asked for otherwise: temperature was" in said and "now it is 1.0" in said
        failing = False
        found = reject(monkeypatch, capsys, *words)
        assert found["examples"] == 3 and found["samples"] == 18 and found["removed"]["wrong"] > 0
        assert sum(teacher.billed.values()) == 18
        assert found["account"]["teacher"]["cost"] == pytest.approx((18 * 6 + 2 * 18 * 7) / 1e6)
        assert reject(monkeypatch, capsys, *words) == found and sum(teacher.attempts.values()) == 19
        count = len(read_jsonl(tmp_path / "out" / "examples.jsonl"))
        card = build(Dedup(answers=True), [tmp_path / "out"], Output(tmp_path / "union"), lambda *_: None)
        assert card["counts"]["in"] == count == 3  # what it wrote is a data set to the other commands
        assert card["parents"][str(tmp_path / "out")]["plan"]["step"] == "reject"
        other = "--at-once", 3, "--price", "2,4", "--most-cost", 9
        assert reject(monkeypatch, capsys, *words, *other) == found and sum(teacher.attempts.values()) == 19
    assert {"examples.jsonl", "removed.jsonl", "card.json"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert "either --model or --endpoint" in reject(monkeypatch, capsys, tmp_path / "a.jsonl", "--out", tmp_path / "b")
    few = tmp_path / "a.jsonl", "--endpoint", "http://x", "--name", "t", "--out", tmp_path / "b"
    assert "--price 1: give two numbers" in reject(monkeypatch, capsys, *few, "--price", "1")


def test_what_stopped_for_its_cost_or_its_address_goes_on_with_what_was_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"question": f"What is {a} + 1?", "answer": a + 1} for a in range(4)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    teacher = ScriptedTeacher(
        lambda content, seed: f"<think> hm . </think> <answer> {int(content.split()[-3]) + 1} </answer>"
    )
    words = tmp_path / "a.jsonl", "--name", "t", "--samples", 2, "--out", tmp_path / "out", "--price", "1,2"
    first_refused = ScriptedTeacher(teacher.answer, lambda content, seed: ["401"])
    with serving(first_refused) as wrong, serving(teacher) as url:
        assert "status 401" in reject(monkeypatch, capsys, *words, "--endpoint", wrong)
        dear = reject(monkeypatch, capsys, *words, "--endpoint", url, "--at-once", 1, "--most-cost", 4e-5)
        paid = sum(teacher.billed.values())
        assert "raise it" in dear and 0 < paid < 8
        assert "asked for otherwise" in reject(monkeypatch, capsys, *words, "--endpoint", url, "--max-new-tokens", 9)
        found = reject(monkeypatch, capsys, *words, "--endpoint", url, "--per-minute", 60_000, "--most-cost", 1)
    assert found["samples"] == 8 and sum(teacher.attempts.values()) == 8
    assert found["account"]["teacher"]["samples"] == 8


def test_what_is_kept_and_how_much_is_asked_may_change_and_what_is_asked_for_may_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"question": f"What is {a} + 1?", "answer": a + 1} for a in range(4)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    teacher = ScriptedTeacher(lambda content, seed: f"It is \\boxed{{{int(content.split()[-3]) + 1}}}.")
    with serving(teacher) as url:
        words = tmp_path / "a.jsonl", "--name", "t", "--out", tmp_path / "out", "--endpoint", url, "--task", "math"
        assert "'bad format': 8" in reject(monkeypatch, capsys, *words, "--samples", 2)
        found = reject(monkeypatch, capsys, *words, "--samples", 3, "--one", "--untagged")
        assert (found["samples"], found["examples"]) == (12, 4) and sum(teacher.attempts.values()) == 12
        assert "was made otherwise: samples was 3, now it is 2" in reject(monkeypatch, capsys, *words, "--samples", 2)
        again = *words, "--samples", 3, "--one", "--untagged"
        assert reject(monkeypatch, capsys, *again) == found
        (tmp_path / "a.jsonl").write_text(json.dumps(rows[0]) + "\n")
        assert "was made otherwise: sources was" in reject(monkeypatch, capsys, *again)
    assert sum(teacher.attempts.values()) == 12


def test_another_model_at_the_same_place_is_another_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "compute 2 + 3", "answer": "5"}) + "\n")
    save_policy(tiny_policy(), tmp_path / "model")
    words = tmp_path / "a.jsonl", "--model", tmp_path / "model", "--max-new-tokens", 4, "--out", tmp_path / "out"
    assert "no sample of 4 is left" in reject(monkeypatch, capsys, *words)
    assert "no sample of 4 is left" in reject(monkeypatch, capsys, *words)
    policy = tiny_policy()
    with torch.no_grad():
        policy.decoder.head_weight.mul_(2)
    save_policy(policy, tmp_path / "model")
    assert "asked for otherwise: weights was" in reject(monkeypatch, capsys, *words)
