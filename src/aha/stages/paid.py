"""Answers that cost money, in the folder of a stage: they outlive all else that is in it."""

from __future__ import annotations

import re
from pathlib import Path

SAMPLES, JUDGEMENTS = "samples.jsonl", "judgements.jsonl"
"""What a teacher and what a judge have answered, a line each."""


def paid_ledgers(folder: Path) -> dict[Path, int]:
    """The ledgers in ``folder`` with answers that an endpoint was paid for, and how many they are."""
    found = {}
    for ledger in (folder / SAMPLES, folder / JUDGEMENTS):
        if ledger.is_file() and (paid := len(re.findall(rb'"asked": "\w', ledger.read_bytes()))):
            found[ledger] = paid
    return found
