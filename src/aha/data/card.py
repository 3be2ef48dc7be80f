"""What a data set says of itself: sources with their hashes, the step with its settings, counts in and out, parents.

Cards hold the cards of their parents, so that the last one lists everything down to the files somebody once fetched:
a leak in a parent is a leak in its children (replications 1.4), and here one sees who was checked against what.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aha import __version__
from aha.errors import DataError
from aha.util.files import read_json, sha256_file, write_json_atomic, write_text_atomic

Card = Mapping[str, Any]


def source_record(file: Path) -> dict[str, Any]:
    """A source as a card names it; ``card`` is the hash of its data set's card, where it is a part of one."""
    record = {"file": str(file), "bytes": file.stat().st_size, "sha256": sha256_file(file)}
    card = file.parent / "card.json"
    return record | ({"card": sha256_file(card)} if card.is_file() else {})


def make_card(
    plan: Card, parts: Sequence[Card], rejected: Mapping[str, int], *, samples: int
) -> dict[str, Any]:
    """The card of a plan that was carried out, from the counts of its parts and of rejected rows by file."""
    kept, removed, by_file = Counter[str](), Counter[str](), Counter[str]()
    shown: dict[str, list[Any]] = {}
    for part in parts:
        kept.update(part["kept"])
        removed.update(part["removed"])
        by_file.update(part["removed_by_file"])
        for reason, rows in part["samples"].items():
            shown[reason] = [*shown.get(reason, []), *rows][:samples]
    files = [source["file"] for source in plan["sources"]]
    sources = {
        file: {"kept": kept[file], "removed": by_file[file], "rejected": rejected.get(file, 0)} for file in files
    }
    folders = {Path(source["file"]).parent for source in plan["sources"] if "card" in source}
    return {
        "plan": dict(plan),
        "aha": __version__,
        "counts": {
            "in": sum(sum(row.values()) for row in sources.values()),
            "kept": sum(kept.values()),
            "removed": dict(sorted(removed.items())),
            "rejected": sum(rejected.values()),
        },
        "by_source": sources,
        "samples": shown,
        "parents": {str(folder): read_json(folder / "card.json") for folder in sorted(folders)},
    }


def write_card(folder: Path, card: Card) -> None:
    """``card.json`` and, for people, ``card.md``."""
    write_json_atomic(folder / "card.json", card)
    write_text_atomic(folder / "card.md", card_text(card))


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a data set folder; ``DataError`` where there is none."""
    if not (folder / "card.json").is_file():
        raise DataError(f"{folder} has no card.json: only folders that 'aha data' wrote have one")
    card = read_json(folder / "card.json")
    if not isinstance(card, dict) or not {"plan", "counts", "parents", "by_source"} <= card.keys():
        raise DataError(f"{folder / 'card.json'}: not the card of a data set")
    return card


def card_text(card: Card) -> str:
    """The card as Markdown."""
    plan, counts = card["plan"], card["counts"]
    removed = sum(counts["removed"].values())
    lines = [
        f"# Data set by `{plan['step']}`",
        "",
        f"{counts['in']:,} rows in, {counts['kept']:,} kept, {removed:,} removed, {counts['rejected']:,} rejected as "
        f"unreadable. Made by aha {card['aha']}.",
        "",
        "## Settings",
        "",
        *(f"- {name}: {_inline(value)}" for name, value in plan["settings"].items()),
        "",
        "## Sources",
        "",
        "| file | sha256 | kept | removed | rejected |",
        "| --- | --- | --- | --- | --- |",
    ]
    for source in plan["sources"]:
        row = card["by_source"][source["file"]]
        cells = (f"{row[name]:,}" for name in ("kept", "removed", "rejected"))
        lines.append(f"| {source['file']} | `{source['sha256'][:16]}` | {' | '.join(cells)} |")
    if counts["removed"]:
        lines += ["", "## Removed", ""]
        for reason, number in counts["removed"].items():
            lines.append(f"- {reason}: {number:,}, such as")
            for sample in card["samples"][reason]:
                lines.append(f"  - {sample['row']}: {_inline(sample['problem'])} {_inline(sample['detail'])}".rstrip())
    if card["parents"]:
        lines += ["", "## Parents", ""]
        lines += [f"- {'  ' * depth}{line}" for depth, line in lineage_lines(card) if depth]
    return "\n".join(lines) + "\n"


def lineage_lines(card: Card, name: str = "") -> Iterator[tuple[int, str]]:
    """(depth, line) of a card, its parents and the files they came from, each child before its parents."""

    def walk(folder: str, card: Card, depth: int) -> Iterator[tuple[int, str]]:
        counts, settings = card["counts"], card["plan"]["settings"]
        against = [entry["file"] for entry in settings.get("against", [])]
        checked = f", checked against {', '.join(against)}" if against else ""
        numbers = f"{counts['in']:,} in, {counts['kept']:,} kept"
        yield depth, f"{folder or 'this'}: {card['plan']['step']}, {numbers}{checked}"
        for source in card["plan"]["sources"]:
            if "card" not in source:
                rows = sum(card["by_source"][source["file"]].values())
                yield depth + 1, f"{source['file']}: {rows:,} rows, sha256 {source['sha256'][:16]}"
        for parent, parent_card in card["parents"].items():
            yield from walk(parent, parent_card, depth + 1)

    yield from walk(name, card, 0)


def _inline(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
