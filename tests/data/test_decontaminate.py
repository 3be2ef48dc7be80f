"""What each published strength finds of planted leaks, and what it lets pass; nothing clean goes."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

import pytest

from aha.data.dataset import Output, build
from aha.data.decontaminate import Benchmark, Decontaminate, Strength, read_questions, word_runs
from aha.data.text import spaced_words, without_digits
from aha.errors import DataError
from aha.util.files import read_jsonl

ASKED = (
    "A train leaves the northern station at 9 in the morning and travels 60 miles every hour while a second train "
    "leaves the southern station one hour later and travels 80 miles every hour; when do they meet if it is 340 miles?"
)
SHORT = "Compute $\\sin 60^\\circ$."
LEAKS = {
    "same": f"  {ASKED.upper()} ",
    "numbers": ASKED.replace("60", "45").replace("340", "999"),
    "within": f"Here is a riddle. {ASKED} Explain your answer at length, please, with all the steps that you take.",
    "nine words": "Yesterday a train leaves the northern station at 9 in winter; how long is it?",
    "one word": ASKED.replace("second", "other"),
    "short": SHORT,
    "clean": "A ship leaves the eastern harbour at noon and sails 12 miles an hour; where is it at 5?",
}
FOUND = {
    ("ngram", 8): {"same", "numbers", "within", "nine words", "one word", "short"},
    ("ngram", 10): {"same", "numbers", "within", "one word", "short"},
    ("light", 8): {"same", "numbers", "within", "short"},
    ("fuzzy", 8): {"same", "numbers", "one word", "short"},  # new numbers are few letters of a long question
}


@pytest.mark.parametrize(("strength", "words"), FOUND)
def test_what_each_strength_finds(tmp_path: Path, strength: Strength, words: int) -> None:
    (tmp_path / "bench.jsonl").write_text("\n".join(json.dumps({"question": q}) for q in (ASKED, SHORT)))
    rows = [json.dumps({"id": name, "problem": text}) for name, text in LEAKS.items()]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    step = Decontaminate([tmp_path / "bench.jsonl"], strength, words)
    card = build(step, [tmp_path / "a.jsonl"], Output(tmp_path / "out"), lambda *_: None)
    removed = read_jsonl(tmp_path / "out" / "removed.jsonl")
    assert {row["id"] for row in removed} == FOUND[strength, words]
    assert all(f"{tmp_path / 'bench.jsonl'}:{1 + (row['id'] == 'short')}" in row["detail"] for row in removed)
    (entry,) = card["plan"]["settings"]["against"]
    assert entry["file"] == str(tmp_path / "bench.jsonl") and len(entry["sha256"]) == 64


def test_runs_are_those_of_a_search_in_the_text() -> None:
    """A run is shared exactly where the benchmark's text, with spaces around, holds it with spaces around."""
    text = f" {' '.join(spaced_words(ASKED))} "
    bench = Benchmark.of([("b:1", ASKED)], "ngram", 8)
    for name, question in LEAKS.items():
        words = spaced_words(question)
        held = any(f" {' '.join(words[i : i + 8])} " in text for i in range(len(words) - 7))
        assert (bench.meets(question) is not None) == held, name


def test_a_fuzzy_neighbour_is_never_lost_to_the_bounds_of_length() -> None:
    """difflib's ratio of two texts, one the other with letters cut off, is the longest that two lengths allow."""
    text = "abcdefghij" * 20
    bench = Benchmark.of([("b:1", text)], "fuzzy", 8)
    for cut in range(30):
        shorter = text[: len(text) - cut]
        ratio = difflib.SequenceMatcher(None, text, shorter, autojunk=False).ratio()
        assert (bench.meets(shorter) is not None) == (100 * ratio >= 95), cut


def test_words_and_letters() -> None:
    assert list(word_runs(["a", "b", "c"], 2)) == ["a b", "b c"] and not list(word_runs(["a"], 2))
    assert spaced_words("A  B,\n有3个") == ["a", "b,", "有", "3", "个"]
    assert without_digits("Is 3 + 4 = 7?") == "is" and without_digits("1 + 1") == ""


def test_numbers_alone_are_no_leak_of_each_other() -> None:
    assert Benchmark.of([("b:1", "2 + 2 = ?")], "light", 8).meets("17 * 3 = ?") is None


def test_a_benchmark_with_a_bad_row_or_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bench.jsonl").write_text('{"question": "a"}\n{"question": \n')
    with pytest.raises(DataError, match=r"bench.jsonl:2: not JSON.*a benchmark must be whole"):
        read_questions([tmp_path / "bench.jsonl"])
    (tmp_path / "good.jsonl").write_text('{"question": "a"}\n')
    (tmp_path / "bench.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"bench.jsonl: no rows"):
        read_questions([tmp_path / "good.jsonl", tmp_path / "bench.jsonl"])
