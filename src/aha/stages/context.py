"""What a stage is handed by whoever runs it: its working folder, its seed, its log, and the request to stop."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aha.util.files import append_jsonl, write_text_atomic


class Interrupted(BaseException):
    """The stage was asked to stop and has had its chance to save. No error: ``except Exception`` lets it pass."""


class Context:
    """The side of a running stage that faces its runner. Without ``send`` and ``stop`` it works alone, as in tests.

    A stage that can continue does, once a step and in this order::

        context.log({"step": step, ...})
        if context.save_due():
            state.save(context.out / "state")
        context.progress(step, total, loss=loss)

    ``out`` is the working folder (renamed when the stage is done), ``seed`` the stage's own seed, ``run_seed`` the
    recipe's.
    """

    def __init__(
        self,
        out: Path,
        *,
        name: str,
        seed: int,
        run_seed: int,
        send: Callable[[tuple[Any, ...]], None] | None = None,
        stop: threading.Event | None = None,
        state_every: float = 20.0,
        progress_every: float = 0.2,
    ) -> None:
        self.out = out
        self.name = name
        self.seed = seed
        self.run_seed = run_seed
        self._send = send
        self._stop = stop or threading.Event()
        self._state_every = state_every
        self._progress_every = progress_every
        self._saved_at = time.monotonic()
        self._saving_since: float | None = None
        self._sent_at = float("-inf")
        self._save_asked = False  # the stage saves state at all
        self._stop_offered = False  # save_due() has been true since the stop was requested
        self._steps_since_stop = 0

    def log(self, row: Mapping[str, Any]) -> None:
        """Appends ``row`` to ``metrics.jsonl``."""
        append_jsonl(self.out / "metrics.jsonl", row)

    def note(self, text: str) -> None:
        """Says something that a person should see at once."""
        if self._send is not None:
            self._send(("note", text))

    def rewind_metrics(self, step: int) -> None:
        """Drops the rows of ``metrics.jsonl`` after ``step``; a stage that starts or continues at ``step`` calls it."""
        path = self.out / "metrics.jsonl"
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # torn by a crash: later than any saved state
                break
            if row.get("step", 0) <= step:
                kept.append(line + "\n")
        write_text_atomic(path, "".join(kept))

    def stop_requested(self) -> bool:
        """Whether the stage should stop soon."""
        return self._stop.is_set()

    def save_due(self) -> bool:
        """True every ``state_every`` seconds (less often where saving takes long), and when a stop was requested: save
        everything needed to continue."""
        self._save_asked = True
        now = time.monotonic()
        if self.stop_requested():
            self._stop_offered = True
        elif now - self._saved_at < self._state_every:
            return False
        self._saving_since = now
        return True

    def progress(self, step: int, total: int, **fields: float) -> None:
        """Says how far the stage is (``fields``: reward, length, loss ...), at most five times a second.

        Raises ``Interrupted`` if a stop was requested and ``save_due`` has said so; a stage that has not asked
        ``save_due`` by the second call after the request is taken to have nothing to save.
        """
        now = time.monotonic()
        if self._saving_since is not None:  # the state was written since save_due: let it cost a twentieth of the time
            self._state_every = max(self._state_every, 20 * (now - self._saving_since))
            self._saved_at, self._saving_since = now, None
        if self._send is not None and (now - self._sent_at >= self._progress_every or step >= total):
            self._sent_at = now
            self._send(("progress", step, total, {key: float(value) for key, value in fields.items()}))
        if self.stop_requested():
            self._steps_since_stop += 1
            if not self._save_asked or self._stop_offered or self._steps_since_stop > 1:
                raise Interrupted
