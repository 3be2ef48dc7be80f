"""Mixes have the shares asked for, selections cover domains, splits never move."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest

from aha.data.compose import Select, Split, build_mix
from aha.data.dataset import Output, build
from aha.data.mix import mix_counts, mix_shares, select_diverse, split_side
from aha.data.stats import compute_stats
from aha.errors import DataError, SettingError
from aha.util.files import read_jsonl


def quiet(what: str, done: int, total: int | None) -> None:
    pass


def write(path: Path, name: str, count: int) -> Path:
    rows = [{"id": f"{name}{i}", "problem": f"{name} {i}", "subject": name, "solution": "x" * i} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_shares_and_counts_by_hand() -> None:
    assert mix_shares({"a": 9, "b": 1}, 1.0) == {"a": 0.9, "b": 0.1}
    assert mix_shares({"a": 9, "b": 1}, 2.0) == {"a": 0.75, "b": 0.25}
    assert mix_counts({"a": 90, "b": 10}, {"a": 0.75, "b": 0.25}, None) == {"a": 30, "b": 10}
    assert mix_counts({"a": 9, "b": 9, "c": 9}, {"a": 0.4, "b": 0.4, "c": 0.2}, 7) == {"a": 3, "b": 3, "c": 1}
    with pytest.raises(DataError, match="b: 3 rows are wanted of 2"):
        mix_counts({"a": 9, "b": 2}, {"a": 0.5, "b": 0.5}, 6)
    for weight, temperature in ((0, 1), (-1, 1), (math.nan, 1), (math.inf, 1), (1, 0), (1, math.nan)):
        with pytest.raises(SettingError, match="finite and above 0"):
            mix_shares({"a": 1, "b": weight}, temperature)


def test_a_mix_is_shuffled_without_repetition_and_continues_after_a_kill(tmp_path: Path) -> None:
    a, b = str(write(tmp_path / "a.jsonl", "a", 60)), str(write(tmp_path / "b.jsonl", "b", 60))
    weights = {a: 3.0, b: 1.0}

    def kill(what: str, done: int, total: int | None) -> None:
        if what == "mix":
            raise KeyboardInterrupt

    build_mix(weights, Output(tmp_path / "straight", shard_rows=16), quiet, total=40)
    with pytest.raises(KeyboardInterrupt):
        build_mix(weights, Output(tmp_path / "resumed", shard_rows=16), kill, total=40)
    card = build_mix(weights, Output(tmp_path / "resumed", shard_rows=16), quiet, total=40)
    parts = sorted((tmp_path / "resumed").iterdir())
    assert [part.read_bytes() for part in parts] == [p.read_bytes() for p in sorted((tmp_path / "straight").iterdir())]
    names = [row["id"] for part in parts if part.name.startswith("part-") for row in read_jsonl(part)]
    assert Counter(name[0] for name in names) == {"a": 30, "b": 10} and len(set(names)) == 40
    assert 0 < Counter(name[0] for name in names[:16])["b"] < 10 and names[:30] != sorted(names[:30])
    assert card["by_source"][a]["kept"] == 30


def test_selection_takes_domains_alike_and_long_rows_more_often(tmp_path: Path) -> None:
    domains = ["many"] * 900 + ["few"] * 100
    lengths = [10] * 450 + [1000] * 450 + [10] * 100
    chosen = select_diverse(domains, lengths, 100, seed=0)
    many = [row for row in chosen if row < 900]
    assert len(set(chosen)) == 100 and 35 <= len(many) <= 65  # uniform over two domains: 50, deviation 5
    assert sum(row >= 450 for row in many) / len(many) > 0.9  # 100 times as likely: 99 %
    assert select_diverse(["a", "b", "b"], [1, 1, 1], 3, seed=1) == [0, 1, 2]
    source = write(tmp_path / "a.jsonl", "a", 20)
    build(Select(5), [source], Output(tmp_path / "out", shard_rows=8), quiet)
    assert sum(len(read_jsonl(part)) for part in (tmp_path / "out").glob("part-*")) == 5
    with pytest.raises(DataError, match="a.jsonl:1: no field 'level'"):
        build(Select(5, by="level"), [source], Output(tmp_path / "no"), quiet)


def test_the_sides_of_a_split_are_disjoint_whole_and_stay(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", "a", 400)
    sides = {}
    for side in ("train", "test"):
        build(Split(side, 0.2), [source], Output(tmp_path / side), quiet)  # type: ignore[arg-type]
        sides[side] = {row["id"] for row in read_jsonl(tmp_path / side / "part-00000.jsonl")}
    assert not sides["train"] & sides["test"] and len(sides["train"] | sides["test"]) == 400
    assert 50 <= len(sides["test"]) <= 110  # 80, deviation 8
    build(Split("test", 0.2), [write(tmp_path / "a.jsonl", "a", 500)], Output(tmp_path / "later"), quiet)
    assert sides["test"] <= {row["id"] for row in read_jsonl(tmp_path / "later" / "part-00000.jsonl")}
    assert split_side({"problem": "What  is 7?"}, 0.5) == split_side({"problem": "what is 7"}, 0.5)
    assert len({split_side({"problem": str(i), "split_key": "k"}, 0.5) for i in range(20)}) == 1


def test_statistics_by_hand(tmp_path: Path) -> None:
    rows = [{"problem": "a b", "pass_rate": 0.25}, {"problem": "a b c d", "task": "math"}, {"answer": 1}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = compute_stats([tmp_path / "a.jsonl"])
    assert (found["rows"], found["rejected"], found["groups"]) == (2, 1, {"task": {"math": 1}})
    words = found["lengths"]["problem"]
    assert words["mean"] == 3 and words["quantiles"]["50"] == 3 and words["quantiles"]["100"] == 4
    assert words["edges"] == [0, 1, 2, 4, 8] and words["counts"] == [0, 0, 1, 1]
    assert found["pass_rates"] == [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
