"""Guards at work: each step's metrics are checked, and what is found is logged, said, and answered.

A rollback goes to the weights and moments of the last step that was kept without a finding, and halves the learning
rate from there on; the steps go on counting, so that other problems are asked and other samples drawn.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aha.errors import InvariantError
from aha.stages.context import Context
from aha.train.guards import SEVERITY, Finding, GuardSettings, check, grad_norm_limit
from aha.train.state import TrainState
from aha.util.files import read_jsonl

MAX_ROLLBACKS = 3


class Watch:
    """The guards of one stage; its history is the stage's own ``metrics.jsonl``, so a stage that was stopped decides
    as one that was not. ``every`` 0 keeps nothing to go back to."""

    def __init__(self, settings: GuardSettings, context: Context, state: TrainState, *, every: int) -> None:
        self._settings, self._context, self._state, self._every = settings, context, state, every
        path = context.out / "metrics.jsonl"
        self._history: list[Mapping[str, Any]] = list(read_jsonl(path)) if path.exists() else []
        self._folder = context.out / "good"
        state.extra.setdefault("rollbacks", 0)

    @property
    def lr_factor(self) -> float:
        """What the learning rate is multiplied by after the rollbacks so far."""
        return 0.5 ** int(self._state.extra["rollbacks"])

    @property
    def norm_limit(self) -> float:
        """The largest gradient norm that the next update may have."""
        return grad_norm_limit(self._history, self._settings)

    def log(self, row: dict[str, Any]) -> list[Finding]:
        """Check ``row``, log it with what was found under ``guards``, and say it."""
        findings = check(row, self._history, self._settings)
        if findings:
            row["guards"] = [{"what": f.what, "action": f.action, "says": str(f)} for f in findings]
        self._context.log(row)
        self._history.append(row)
        for finding in findings:
            self._context.note(f"{finding.action}: {finding}")
        return findings

    def act(self, findings: list[Finding]) -> None:
        """Stop, go back, or keep this step to go back to. ``InvariantError`` says what stopped the stage; everything
        that was logged and saved stays."""
        step = self._state.step
        worst = max((f.action for f in findings), key=SEVERITY.index, default=None)
        reasons = "; ".join(str(f) for f in findings if f.action == worst)
        if worst == "stop":
            raise InvariantError(f"stopped by a guard at {reasons}")
        if worst == "rollback":
            self._roll_back(reasons)
        elif self._every and step % self._every == 0 and not any("guards" in r for r in self._history[-self._every :]):
            self._state.save(self._folder / f"{step:06d}")

    def forget(self) -> None:
        """Drop what no continuation can need: called after the state was saved."""
        for folder in self._kept()[:-1]:
            shutil.rmtree(folder)

    def close(self) -> None:
        """The stage is done."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _kept(self) -> list[Path]:
        folders = sorted(self._folder.glob("[0-9]*")) if self._folder.is_dir() else []
        return [folder for folder in folders if int(folder.name) <= self._state.step]

    def _roll_back(self, reasons: str) -> None:
        kept, state = self._kept(), self._state
        if not kept or state.extra["rollbacks"] >= MAX_ROLLBACKS:
            why = f"{MAX_ROLLBACKS} rollbacks have not helped" if kept else "no earlier state was kept"
            raise InvariantError(f"stopped by a guard at {reasons}; {why}")
        step, extra = state.step, state.extra
        state.load(kept[-1])
        state.step, state.extra = step, extra
        extra["rollbacks"] += 1
        self._context.note(f"rolled back to the weights of step {int(kept[-1].name)}; learning rate x {self.lr_factor}")
