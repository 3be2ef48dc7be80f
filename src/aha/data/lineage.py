"""Where a model or a data set comes from, as a flat graph: every stage and every data step behind it, down to the
hashes of the files somebody once fetched.

A node is known by its name: a stage by its own, a data set by its folder, a file by its path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aha.data.card import Card, read_card
from aha.data.decontaminate import Benchmark, read_questions
from aha.data.fields import named
from aha.data.files import Row, find_files, format_of, read_rows
from aha.errors import DataError
from aha.util.files import read_json

LINEAGE = "lineage.json"
"""What a stage of a run writes of itself; a model folder has a copy as ``card.json``."""

MADE = 3  # numbers of a stage's result that a node shows


@dataclass(frozen=True, slots=True)
class Node:
    """``Node("clean", "decontaminate", "7,000 in, 6,988 kept", ("union",))``; ``kind`` is file, a data step, or that of
    a stage. ``place`` is where it lies, if it was found there, and ``said`` what its card says at length."""

    name: str
    kind: str
    note: str
    parents: tuple[str, ...]
    place: str | None = None
    said: str = ""


def stage_lineage(
    name: str,
    kind: str,
    settings: Mapping[str, Any],
    seed: int,
    inputs: Mapping[str, Mapping[str, Any]],
    *,
    files: Mapping[str, str],
    data: Sequence[Card],
    sources: Sequence[Mapping[str, Any]],
    made: Mapping[str, Any],
) -> dict[str, Any]:
    """The record of one stage: itself, and those of all stages behind it, each once.

    ``inputs`` are the records of the stages whose results arrive at each edge; ``files`` the hashes of what the stage
    wrote; ``sources`` the files from outside that its settings name, ``data`` the cards of data sets among them and of
    its own.
    """
    ancestors: dict[str, Any] = {}
    for record in inputs.values():
        ancestors |= record["ancestors"]
        ancestors[record["stage"]["name"]] = record["stage"]
    stage = {
        "name": name,
        "kind": kind,
        "settings": dict(settings),
        "seed": seed,
        "inputs": {edge: record["stage"]["name"] for edge, record in inputs.items()},
        "files": dict(files),
        "sources": [dict(source) for source in sources],
        "data": [dict(card) for card in data],
        "made": dict(made),
    }
    return {"stage": stage, "ancestors": dict(sorted(ancestors.items()))}


def nodes_of(folder: Path) -> list[Node]:
    """The graph behind a run, a stage of it, a model folder or a data set, parents before children."""
    if (folder / "recipe.json").is_file():
        found: dict[str, Node] = {}
        for stage in read_json(folder / "recipe.json")["stages"]:
            record = folder / stage["name"] / LINEAGE
            if record.is_file():
                found |= {node.name: node for node in stage_nodes(read_json(record), folder)}
        if not found:
            raise DataError(f"{folder}: no stage of it is finished, or it was run before stages wrote {LINEAGE}")
        return list(found.values())
    for path, run in ((folder / LINEAGE, folder.parent), (folder / "card.json", folder.parent.parent)):
        if path.is_file() and "ancestors" in (record := read_json(path)):
            return stage_nodes(record, run)
    return list({node.name: node for node in card_nodes(read_card(folder), str(folder))}.values())


def stage_nodes(record: Mapping[str, Any], run: Path) -> list[Node]:
    """The stages of a record with what came from outside, parents before children."""
    stages = {**record["ancestors"], record["stage"]["name"]: record["stage"]}
    found: dict[str, Node] = {}

    def add(name: str) -> None:
        if name in found or name not in stages:
            return
        stage = stages[name]
        for parent in stage["inputs"].values():
            add(parent)
        outside: list[str] = []
        for card in stage["data"]:
            steps = list(card_nodes(card, card.get("folder", name)))
            if card.get("own"):  # its sources are those of the stage's inputs
                continue
            found.update({node.name: node for node in steps})
            outside.append(steps[-1].name)
        if not outside:
            for source in stage["sources"]:
                found[source["file"]] = _file_node(source, None)
                outside.append(source["file"])
        note = ", ".join(f"{key} {_short(value)}" for key, value in list(stage["made"].items())[:MADE])
        parents = tuple(dict.fromkeys((*outside, *stage["inputs"].values())))
        place = str(run / name) if (run / name).is_dir() else None
        hashes = "; ".join(f"{file} {digest[:16]}" for file, digest in stage["files"].items())
        found[name] = Node(name, stage["kind"], note, parents, place, hashes)

    for name in stages:
        add(name)
    return list(found.values())


def card_nodes(card: Card, name: str) -> Iterator[Node]:
    """The data steps behind a card and their files, parents first and ``card``'s own last."""
    parents: list[str] = []
    for parent, parent_card in card["parents"].items():
        yield from card_nodes(parent_card, parent)
        parents.append(parent)
    for source in card["plan"]["sources"]:
        if "card" not in source:
            yield _file_node(source, sum(card["by_source"][source["file"]].values()))
            parents.append(source["file"])
    counts, against = card["counts"], card["plan"]["settings"].get("against", [])
    removed = ", ".join(f"{why} {number:,}" for why, number in counts["removed"].items())
    checked = f"checked against {', '.join(entry['file'] for entry in against)}" if against else ""
    said = "; ".join(filter(None, (checked, removed)))
    place = name if Path(name).is_dir() else None
    yield Node(name, card["plan"]["step"], f"{counts['in']:,} in, {counts['kept']:,} kept", tuple(parents), place, said)


def count_leaks(nodes: Sequence[Node], against: Sequence[str | Path], words: int = 8) -> dict[str, int]:
    """Questions of each node's data that share a run of ``words`` with a benchmark's, where the data are still there.

    What a parent lets through its children have: nobody's word is taken for it (replications 1.4).
    """
    benchmark = Benchmark.of(read_questions(against), "ngram", words)
    counts: dict[str, int] = {}
    for node in nodes:
        files = data_files(Path(node.place or node.name))
        if files:
            counts[node.name] = sum(1 for question in questions_of(files) if benchmark.meets(question))
    return counts


def data_files(place: Path) -> list[Path]:
    """The files of rows that a file, a data set folder or a stage of a run has."""
    if place.is_file():
        return [place] if format_of(place) else []
    if (place / "examples.jsonl").is_file():
        return [place / "examples.jsonl"]
    if (place / "card.json").is_file() and any(place.glob("part-*")):
        return find_files([place])
    return [file for name in ("train.jsonl", "general_train.jsonl") if (file := place / name).is_file()]


def questions_of(files: Sequence[Path]) -> Iterator[str]:
    """The question of every row that has one."""
    for file in files:
        for item in read_rows(file):
            row = named(item) if isinstance(item, Row) else item
            if isinstance(row, Row):
                yield row.fields["problem"]


def trained_on(folder: Path) -> list[Path] | None:
    """What stages behind a model folder or stage wrote to learn from and is still there; None where its card does not
    tell. Files from outside are left out: a stage has split them, and their other side is asked rightly."""
    for path in (folder / LINEAGE, folder / "card.json", folder / "model" / "card.json"):
        if path.is_file() and "ancestors" in (record := read_json(path)):
            run = path.parent.parent if path.name == LINEAGE else path.parents[2]
            names = [*record["ancestors"], record["stage"]["name"]]
            return [file for name in names for file in data_files(run / name)]
    return None


def _file_node(source: Mapping[str, Any], rows: int | None) -> Node:
    counted = "" if rows is None else f"{rows:,} rows, "
    place = source["file"] if Path(source["file"]).is_file() else None
    return Node(source["file"], "file", f"{counted}sha256 {source['sha256'][:16]}", (), place)


def _short(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
