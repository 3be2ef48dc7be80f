"""What was kept is read back as it was said, whatever characters a model wrote."""

from __future__ import annotations

from pathlib import Path

from aha.evaluate.generations import SUFFIX, Asked, Generation, Kept, load_kept
from aha.records import FinishReason, Problem


def test_characters_that_some_readers_take_for_line_ends_stay_in_their_line(tmp_path: Path) -> None:
    said = [f"a{mark}b" for mark in ("\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r", "\r\n", "\n")]
    rows = [
        Asked(Problem(str(i), "why ?", "1", "number"), "<think>", (Generation(text, 3, FinishReason.END.value),))
        for i, text in enumerate(said)
    ]
    settings = {"bench": "own", "problems": len(rows)}
    kept = Kept(tmp_path, "own", settings)
    assert kept.resume(2) == []
    kept.append(rows[:5])
    assert Kept(tmp_path, "own", settings).resume(2) == rows[:4]
    kept.append(rows[4:])
    assert Kept(tmp_path, "own", settings).resume(2) == rows
    assert load_kept(tmp_path)["own"] == (settings, rows) and (tmp_path / f"own{SUFFIX}").is_file()
