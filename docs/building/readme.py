"""Blocks of README.md."""

from __future__ import annotations

import ast
import contextlib
import io
import re
from pathlib import Path
from typing import Any

import typer.main

import aha
from aha.cli import _show_summary, app
from building.results import Results, first_of
from building.table import table

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def demo(results: Results, root: Path) -> str:
    """The table that ``aha run r1_tiny`` ends with, as a terminal shows it."""
    summary = first_of(results, "r1_tiny")
    if summary is None:
        return ""
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        _show_summary(dict(summary))
    lines = [line.rstrip() for line in printed.getvalue().splitlines()]
    return "```text\n" + "\n".join(line for line in lines if line) + "\nreport: runs/r1_tiny/report.html\n```"


def figure(results: Results, root: Path) -> str:
    """The picture, written for a page at the root of the repository."""
    path = root / "docs" / "figures" / "r1_tiny.png"
    summary = first_of(results, "r1_tiny")
    if summary is None or not path.is_file():
        return ""
    words = "R1-Zero's accuracy and response length over its steps, and pass@1 of every stage with 95 % intervals"
    return f"![{words}](docs/figures/r1_tiny.png)\n\n{words} (seed {summary['seed']})."


def commands(results: Results, root: Path) -> str:
    """Every command with the first sentence of its help."""
    group: Any = typer.main.get_command(app)
    rows = [(f"`aha {name}`", (command.help or "").split("\n\n")[0]) for name, command in group.commands.items()]
    return table(("command", "does"), rows)


def house(results: Results, root: Path) -> str:
    """Every folder of the package in the words of its own first line, in the order of the imports."""
    package = Path(aha.__file__).parent
    lines = []
    for name in reversed(_layers()):
        path = package / name / "__init__.py" if (package / name).is_dir() else package / f"{name}.py"
        if path.is_file():
            where = f"src/aha/{name}{'/' if path.name == '__init__.py' else '.py'}"
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            lines.append((f"[`{where}`]({where})", docstring.split("\n\n")[0]))
    return table(("where", "what"), lines)


def _layers() -> list[str]:
    text = PYPROJECT.read_text(encoding="utf-8")
    layers = re.search(r"^layers = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert layers is not None
    return [name.strip("()") for name in re.findall(r'"([^"]+)"', layers.group(1))]
