"""What a finished stage writes of itself: ``lineage.json``, and of a model ``model/card.json`` and ``README.md``.

It holds the records of all stages behind it, so that a model folder that was copied somewhere else still says what it
was made from, down to the hashes of the files from outside (data/lineage.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aha.config import Frozen, canonical
from aha.data.card import source_record
from aha.data.files import find_files
from aha.data.lineage import LINEAGE, stage_lineage, stage_nodes
from aha.errors import DataError
from aha.util.files import read_json, sha256_file, write_json_atomic, write_text_atomic

_HASHED = ("model/*.safetensors", "examples.jsonl", "train.jsonl", "test.jsonl", "general_*.jsonl")


def write_lineage(
    name: str,
    kind: str,
    settings: Frozen,
    seed: int,
    inputs: Mapping[str, Path],
    out: Path,
    metrics: Mapping[str, Any],
) -> None:
    """Into the stage's folder ``out``, when all that the stage makes is there."""
    records = {edge: record for edge, folder in inputs.items() if (record := _record(folder / LINEAGE)) is not None}
    sources, data = [], []
    for field in type(settings).model_fields:
        value = getattr(settings, field)
        if isinstance(value, Path) and value.exists():
            model = _record(value / "card.json")
            if model is not None:
                records[field] = model
            elif (value / "card.json").is_file():
                data.append({**read_json(value / "card.json"), "folder": str(value)})
            else:
                sources += [source_record(file) for file in _files(value)]
    if (out / "card.json").is_file():
        data.append({**read_json(out / "card.json"), "own": True})
    files = {
        str(file.relative_to(out)): sha256_file(file) for pattern in _HASHED for file in sorted(out.glob(pattern))
    }
    record = stage_lineage(
        name, kind, canonical(settings), seed, records, files=files, data=data, sources=sources, made=_made(metrics)
    )
    write_json_atomic(out / LINEAGE, record)
    if (out / "model").is_dir():
        write_json_atomic(out / "model" / "card.json", record)
        if not (out / "model" / "README.md").exists():  # a published model's own stays
            write_text_atomic(out / "model" / "README.md", model_card(record))


_USE = """```python
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
```

For every model of type qwen2, `AutoTokenizer` of transformers 5 takes Qwen's own tokenizer, whatever the folder holds;
`PreTrainedTokenizerFast.from_pretrained` reads this one's."""


def model_card(record: Mapping[str, Any]) -> str:
    """A model's card in Markdown: how it was made, and everything behind it, the last step first."""
    stage = record["stage"]
    lines = [f"# {stage['name']}", "", f"Made by the stage `{stage['kind']}` with seed {stage['seed']}.", ""]
    lines += [f"- {key}: {value}" for key, value in stage["made"].items()]
    lines += ["", *_USE.splitlines(), "", "## Settings", ""]
    lines += [f"- {key}: {value}" for key, value in stage["settings"].items()]
    lines += ["", "## Everything behind it", "", "| what | kind | made | from | files |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for node in reversed(stage_nodes(record, Path("."))):
        cells = (node.name, node.kind, node.note, ", ".join(node.parents), node.said)
        lines.append(f"| {' | '.join(' '.join(cell.split()).replace('|', '/') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _record(path: Path) -> dict[str, Any] | None:
    """A stage's record, if that is what the file is."""
    found = read_json(path) if path.is_file() else None
    return found if isinstance(found, dict) and {"stage", "ancestors"} <= found.keys() else None


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    try:
        return find_files([path])
    except DataError:  # no rows: a model folder
        return sorted(file for file in path.iterdir() if file.is_file())


def _made(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a result that stay the same when it is made again: no times."""
    found = {key: value for key, value in metrics.items() if isinstance(value, int | float) and key != "seconds"}
    accuracy = metrics.get("pass@1")
    return found | ({"pass@1": accuracy["value"]} if isinstance(accuracy, dict) else {})
