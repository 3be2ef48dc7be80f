"""``ledger.json``: what a run folder's stages are, kept beside them so that a run can be continued and reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from aha.errors import DataError
from aha.util.files import read_json, write_json_atomic


class StageStatus(StrEnum):
    """What is known of a stage's result."""

    MISSING = "missing"  # nothing usable; never written
    PARTIAL = "partial"  # begun; continues from its saved state
    FAILED = "failed"  # ended with an error; continues from its saved state when run again
    DONE = "done"
    STALE = "stale"  # done, but from other settings, inputs or code than the recipe's now


@dataclass(frozen=True)
class Entry:
    """One stage: ``origin`` is what ``fingerprint`` is the hash of; ``seconds`` is the sum of all attempts."""

    status: StageStatus
    fingerprint: str
    seconds: float
    finished: str | None
    origin: Mapping[str, Any]


class Ledger:
    """The entries by stage name. Every change is on disk before the call returns; an absent file is an empty ledger."""

    def __init__(self, run: Path) -> None:
        self._path = run / "ledger.json"
        self.entries: dict[str, Entry] = {}
        if not self._path.exists():
            return
        stored = read_json(self._path)
        try:
            for name, row in stored["stages"].items():
                self.entries[name] = Entry(**{**row, "status": StageStatus(row["status"])})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{self._path}: not a ledger ({error}); remove it to redo every stage") from None

    def put(self, name: str, entry: Entry) -> None:
        """Sets the entry of a stage."""
        self.put_all({name: entry})

    def put_all(self, entries: Mapping[str, Entry]) -> None:
        """Sets several entries with one write."""
        self.entries.update(entries)
        self._save()

    def remove(self, name: str) -> None:
        """Forgets a stage: its folders, if any, are no longer trusted."""
        if self.entries.pop(name, None) is not None:
            self._save()

    def _save(self) -> None:
        write_json_atomic(self._path, {"stages": {name: asdict(entry) for name, entry in self.entries.items()}})
