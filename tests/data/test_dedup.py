"""Duplicates are found and nothing else goes; a killed command continues to the same bytes."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aha.data.dataset import Output, build
from aha.data.dedup import MOST_COMPARED, Dedup
from aha.data.minhash import Bands, jaccard, shingle_hashes, unique_in_rows
from aha.data.text import is_fixed, tokens
from aha.errors import UsageError
from aha.util.files import read_json, read_jsonl

BASE = "A baker in the old town sells {a} loaves of rye bread every morning and {b} small rolls; how many in all?"
WORDS = [f"{x}{y}{z}n" for x in "bdfgklmp" for y in "aeiou" for z in "rst"]


def quiet(what: str, done: int, total: int | None) -> None:
    pass


def write(path: Path, questions: Sequence[str]) -> Path:
    lines = [json.dumps({"id": str(i), "problem": text, "answer": "1"}) for i, text in enumerate(questions)]
    path.write_text("\n".join(lines) + "\n")
    return path


def kept(folder: Path) -> list[str]:
    return [row["problem"] for part in sorted(folder.glob("part-*")) for row in read_jsonl(part)]


def random_questions(count: int, seed: int) -> list[str]:
    """Some are others with a word or two changed, some with the same words at the end."""
    rng = random.Random(seed)
    made: list[list[str]] = []
    for _ in range(count):
        words = list(rng.choice(made)) if made and rng.random() < 0.6 else rng.choices(WORDS, k=rng.randint(2, 30))
        for _ in range(rng.randint(0, 3)):
            words[rng.randrange(len(words))] = rng.choice(WORDS)
        made.append(words)
    return [" ".join(words) for words in made]


def test_planted_duplicates_go_and_changed_problems_stay(tmp_path: Path) -> None:
    first = BASE.format(a=12, b=30)
    stay = [
        first,
        BASE.format(a=12, b=31),  # another number is another problem
        "Compute $5! + 3$.",
        "Compute $5 + 3$.",
        "Compute 5 - 3.",
        "Find f'(x).",
        "Find f(x).",
        "Find f(y).",
        "Is 3.5 even?",
        "Is 35 even?",
        "Is .5 even?",
        "Is 5 even?",
        "What is 10²?",
        "What is 102?",
        "What is 2ⁿ?",
        "What is 2n?",
        "Compute $x-y$.",
        "Compute $x y$.",
        "What is f'g?",
        "What is f g?",
        "小明有3个苹果，一共几个？",
        "小明有4个苹果，一共几个？",
        "Where is the x-axis of Euler's well-known curve?",
    ]
    go = [
        first.upper().replace(" ", "\n "),
        first.replace("A baker", "The baker"),
        "compute $5!+3$",
        "小明有3个苹果,一共几个?",
        "Where is the x axis of Euler’s well known curve?",
    ]
    card = build(Dedup(), [write(tmp_path / "a.jsonl", stay + go)], Output(tmp_path / "out", shard_rows=7), quiet)
    assert kept(tmp_path / "out") == stay
    assert card["counts"] == {
        "in": 28, "kept": 23, "removed": {"duplicate": 4, "near-duplicate": 1}, "rejected": 0
    }
    removed = read_jsonl(tmp_path / "out" / "removed.jsonl")
    assert [row["line"] for row in removed] == [24, 25, 26, 27, 28]
    assert removed[0]["detail"] == f"equal to {tmp_path / 'a.jsonl'}:1"
    assert removed[1]["detail"].endswith(f"like {tmp_path / 'a.jsonl'}:1")
    build(Dedup(digits="ignored"), [tmp_path / "a.jsonl"], Output(tmp_path / "stripped"), quiet)
    assert not any("31" in text or "35" in text for text in kept(tmp_path / "stripped"))


def test_another_answer_makes_nearly_equal_questions_two_and_equal_ones_if_asked(tmp_path: Path) -> None:
    rows = [{"problem": "Which is it?", "answer": answer} for answer in ("A", "B", "A ")]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    alike = "Find the {} of the circle with equation $9x^2-18x+9y^2+36y+44=0$ in the plane."
    near = [{"problem": alike.format(what), "answer": answer} for what, answer in (("radius", "1"), ("center", "2"))]
    (tmp_path / "near.jsonl").write_text("\n".join(map(json.dumps, near)))
    assert build(Dedup(), [tmp_path / "near.jsonl"], Output(tmp_path / "near"), quiet)["counts"]["kept"] == 2
    near[1]["answer"] = "1"
    (tmp_path / "near.jsonl").write_text("\n".join(map(json.dumps, near)))
    assert build(Dedup(), [tmp_path / "near.jsonl"], Output(tmp_path / "same"), quiet)["counts"]["kept"] == 1
    build(Dedup(answers=True), [tmp_path / "a.jsonl"], Output(tmp_path / "out"), quiet)
    assert [row["answer"] for row in read_jsonl(tmp_path / "out" / "part-00000.jsonl")] == ["A", "B"]


def test_near_duplicates_are_those_of_all_pairs_compared(tmp_path: Path) -> None:
    """Brute force over all pairs with Python's sets: the first of each stays. 0.9998 of pairs at 0.7 are compared."""
    questions = random_questions(300, seed=1)
    sets = []
    for text in questions:
        words = tokens(text)
        sets.append({tuple(words[i : i + 3]) for i in range(len(words) - 2)} or {tuple(words)})
    stays: list[int] = []
    for i, one in enumerate(sets):
        if not any(len(one & sets[j]) / len(one | sets[j]) >= 0.7 for j in stays):
            stays.append(i)
    build(Dedup(), [write(tmp_path / "a.jsonl", questions)], Output(tmp_path / "out", shard_rows=64), quiet)
    assert kept(tmp_path / "out") == [questions[i] for i in stays] and 60 < len(stays) < 280


def test_what_goes_names_the_row_that_stays_and_is_most_like_it(tmp_path: Path) -> None:
    """40 words are 38 runs of three, and a changed word changes three of them."""
    other = {at: WORDS[50 + at] for at in (5, 15, 25)}
    first, changed, far = (
        " ".join(WORDS[at] if at not in other or at >= until else other[at] for at in range(40)) for until in (0, 6, 40)
    )
    source = write(tmp_path / "a.jsonl", [first, far, changed, changed])
    build(Dedup(), [source], Output(tmp_path / "out"), quiet)
    assert kept(tmp_path / "out") == [first, far]  # 29 runs of 47
    details = [row["detail"] for row in read_jsonl(tmp_path / "out" / "removed.jsonl")]
    assert details == [f"{35 / 41:.2f} like {source}:1"] * 2  # and 32 of 44 like the second


def test_a_template_with_many_numbers_hides_no_duplicate(tmp_path: Path) -> None:
    """Rows with other numbers are in no bucket of a row, so that they do not use up those that it is compared with."""
    words = " ".join(map("".join, itertools.product("bcdfghjklmnpq", repeat=3)))  # so many that a number hardly shows
    stay = [f"{words} has {a} of them" for a in range(MOST_COMPARED + 6)]
    questions = [*stay, stay[-1].replace("has", "had")]
    build(Dedup(), [write(tmp_path / "a.jsonl", questions)], Output(tmp_path / "out"), quiet)
    assert kept(tmp_path / "out") == stay


def test_jaccard_and_the_chance_to_be_compared_by_hand() -> None:
    lists = [["a", "b", "c", "d"], ["a", "b", "c", "x"], ["a"], []]
    shingles, ends = unique_in_rows(*shingle_hashes(lists, 3))
    assert ends.tolist() == [0, 2, 4, 5, 6]
    pairs = np.array([0, 0, 2]), np.array([1, 0, 2])
    assert jaccard(*pairs, shingles, ends).tolist() == [1 / 3, 1, 1]
    assert Bands(2, 2).chance(0.5) == 1 - (1 - 0.25) ** 2


def test_tokens() -> None:
    assert tokens("Is 3.5 + X  even?") == ["is", "3.5", "+", "x", "even"]
    assert tokens("a two-digit ２") == ["a", "two", "digit", "2"] and tokens("有3个") == ["有", "3", "个"]
    assert [t for t in tokens("Let x = a 5 in cats") if is_fixed(t)] == ["x", "=", "5"]


class Killed(Exception):
    pass


@pytest.mark.parametrize("moment", [("reading", 1), ("hashing questions", 2), ("comparing", 5), ("dedup", 2)])
def test_killed_anywhere_it_continues_to_the_same_bytes(tmp_path: Path, moment: tuple[str, int]) -> None:
    source = write(tmp_path / "a.jsonl", random_questions(200, seed=2))
    with source.open("a") as file:
        file.write("not json\n")

    def contents(folder: Path) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in sorted(folder.rglob("*"))}

    build(Dedup(), [source], Output(tmp_path / "straight", "jsonl.gz", 40), quiet)
    calls = 0

    def kill(what: str, done: int, total: int | None) -> None:
        nonlocal calls
        calls += what == moment[0]
        if calls == moment[1]:
            raise Killed

    output = Output(tmp_path / "resumed", "jsonl.gz", 40)
    with pytest.raises(Killed):
        build(Dedup(), [source], output, kill)
    assert not output.folder.exists()
    card = build(Dedup(), [source], output, quiet)
    assert contents(tmp_path / "resumed") == contents(tmp_path / "straight")
    assert card["counts"]["rejected"] == 1 and build(Dedup(), [source], output, quiet) == card  # done: as it was
    with pytest.raises(UsageError, match="choose another"):
        build(Dedup(threshold=0.9), [source], output, quiet)


@pytest.mark.parametrize("pieces", [0, 1, 4])
def test_killed_in_its_last_moments_it_is_done_or_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    source = write(tmp_path / "a.jsonl", random_questions(60, seed=3))
    build(Dedup(), [source], Output(tmp_path / "straight", shard_rows=20), quiet)
    unlink, left = Path.unlink, pieces

    def kill(path: Path, missing_ok: bool = False) -> None:
        nonlocal left
        if path.name.startswith(("removed-", "counts-", "plan.json")):  # what is made for the work alone
            if not left:
                raise Killed
            left -= 1
        unlink(path, missing_ok)

    output = Output(tmp_path / "resumed", shard_rows=20)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Path, "unlink", kill)
        build(Dedup(), [source], output, quiet)
    build(Dedup(), [source], output, quiet)
    names = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("resumed", "straight")]
    assert names[0] == names[1] and kept(output.folder) == kept(tmp_path / "straight")
    assert not output.partial.exists()


def test_what_another_command_left_half_done_is_not_continued(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", ["one two three", "one two three"])
    output = Output(tmp_path / "out")

    def kill(what: str, done: int, total: int | None) -> None:
        if what == "dedup":
            raise Killed

    with pytest.raises(Killed):
        build(Dedup(), [source], output, kill)
    write(source, ["quite another question"])
    build(Dedup(), [source], output, quiet)
    assert kept(output.folder) == ["quite another question"]


def test_a_card_holds_its_parents_and_their_sources(tmp_path: Path) -> None:
    source: Any = write(tmp_path / "a.jsonl", ["one", "one", "two"])
    build(Dedup(threshold=1.0), [source], Output(tmp_path / "b"), quiet)
    card = build(Dedup(), [tmp_path / "b"], Output(tmp_path / "c"), quiet)
    parent = card["parents"][str(tmp_path / "b")]
    assert parent == read_json(tmp_path / "b" / "card.json")
    assert parent["plan"]["sources"][0]["file"] == str(source) and parent["counts"]["in"] == 3
    text = (tmp_path / "b" / "card.md").read_text()
    assert "3 rows in, 2 kept, 1 removed" in text and f"equal to {source}:1" in text
