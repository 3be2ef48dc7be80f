"""What the guards of a stage found and did, as its metrics have it (train/guards.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class GuardEvent:
    """``GuardEvent(60, "kl", "warn", "kl 1.1 (limit 1): the policy is far ..")``: said and done at step 60."""

    step: int
    what: str
    action: str
    says: str


def guard_events(rows: Sequence[Mapping[str, Any]]) -> list[GuardEvent]:
    """The events in the rows of a ``metrics.jsonl``, in their order."""
    events = []
    for row in rows:
        step = int(row.get("step") or 0)
        for found in row.get("guards") or ():
            says = str(found.get("says", "")).removeprefix(f"step {step}: ")
            events.append(GuardEvent(step, str(found.get("what", "")), str(found.get("action", "")), says))
    return events
