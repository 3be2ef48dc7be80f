"""``aha bench data`` at toy size: what it plants is what the steps find."""

from __future__ import annotations

import re

from aha.util.benchmarks import load_benchmark


def test_what_is_planted_is_found() -> None:
    found = load_benchmark("data")(limit=4_000)
    counts = {}
    for note in found["notes"]:
        sums = [sum(map(int, re.findall(r": (\d+)", text))) for text in note.split("planted")]
        counts[note.split(" questions")[0]] = sums
    assert list(counts) == ["dedup, 400", "decontaminate, 400", "dedup, 4,000", "decontaminate, 4,000"]
    assert all(removed == planted for removed, planted in counts.values()), counts
    assert counts["dedup, 4,000"][0] > 200 and counts["decontaminate, 4,000"][0] > 0
