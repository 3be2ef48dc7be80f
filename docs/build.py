"""Regenerates the generated blocks and pictures of the documentation.

    python docs/build.py                          # every block again, from docs/results and from the code
    python docs/build.py runs/r1_tiny runs/seed1  # first take over the figures of these finished runs

A block stands between ``<!-- generated:NAME -->`` and ``<!-- /generated -->``; what it says comes from
``docs/results/*.json`` (the runs' ``summary.json``) or from the code, never from a keyboard. Run folders are only read.
Doing it twice changes nothing. ``building/blocks.py`` says which block is made where.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from aha.errors import AhaError
from aha.util.files import write_text_atomic
from building.blocks import render
from building.runs import take

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str]) -> int:
    try:
        for run in arguments:
            print(f"took {take(Path(run), ROOT)}")
        for path, text in render(ROOT).items():
            if path.read_text(encoding="utf-8") != text:
                write_text_atomic(path, text)
                print(f"wrote {path.relative_to(ROOT)}")
    except AhaError as error:
        print(f"docs/build.py: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
