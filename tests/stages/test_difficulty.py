"""Pass rates are the share of samples that the checker calls right, and a window of them stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aha.data.dataset import Output, build
from aha.records import FinishReason
from aha.rollout.endpoint import Account, Answered
from aha.stages import difficulty
from aha.stages.difficulty import Difficulty
from aha.stages.models import save_policy
from aha.testing import tiny_policy
from aha.util.files import read_jsonl


class Knows:
    """Answers ``What is a + b?`` right in the first b of its samples."""

    def __init__(self, *_: object) -> None:
        self.account, self.given_up = Account(), {}

    def mark(self, one: object) -> str:
        return ""

    def refuse(self, question: str) -> str:
        return "99 tokens" if "long" in question else ""

    def sample(self, asked, keep, tick) -> None:  # type: ignore[no-untyped-def]
        for one in asked:
            a, b = (int(word) for word in one.question.rstrip("?").split()[2::2])
            said = f"<think> hm </think> <answer> {a + b if one.number < b else 0} </answer>"
            keep(Answered(one.key, said, FinishReason.END, 1, 1))
        tick()


def test_the_window_of_pass_rates_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(difficulty, "PolicySampler", Knows)
    save_policy(tiny_policy(), tmp_path / "model")
    rows = [{"id": "same", "problem": f"What is 7 + {b}?", "answer": 7 + b} for b in range(5)]
    rows.insert(3, {"id": "same", "problem": "A long question", "answer": 1})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    step = Difficulty(tmp_path / "model", samples=4, low=0.25, high=0.75)
    card = build(step, [tmp_path / "a.jsonl"], Output(tmp_path / "out", shard_rows=2), lambda *_: None)
    assert [row["pass_rate"] for row in read_jsonl(tmp_path / "out" / "part-00000.jsonl")] == [0.25]
    kept = [row for part in sorted((tmp_path / "out").glob("part-*")) for row in read_jsonl(part)]
    assert [row["pass_rate"] for row in kept] == [0.25, 0.5, 0.75]
    assert card["counts"]["removed"] == {"too easy": 1, "too hard": 1, "too long": 1}
    removed = read_jsonl(tmp_path / "out" / "removed.jsonl")
    assert [row["detail"] for row in removed] == ["0 of 4 samples right", "99 tokens", "1 of 4 samples right"]
