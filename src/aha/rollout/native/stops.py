"""Stop strings without decoding every text at every step.

A stop string ends inside the text of some token, so only tokens whose text has its last character can complete it.
Those are found once for a vocabulary; a row that samples one has its last tokens decoded, as many as one can span,
unless the token's own text has a stop string.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_BROKEN = "\ufffd"  # what part of a character decodes to


class StopStrings:
    """Finds stop strings with ``detokenize``, which turns ids into text."""

    def __init__(self, detokenize: Callable[[Sequence[int]], str], vocab_size: int) -> None:
        self._detokenize = detokenize
        self._vocab_size = vocab_size
        self._pieces: list[str] | None = None

    def tokens(self, stop: Sequence[str]) -> tuple[list[int], list[int]]:
        """Ids that may complete one of ``stop``, and of these the ones whose own text has one."""
        if self._pieces is None:
            self._pieces = [self._piece(token) for token in range(self._vocab_size)]
        last = {text[-1] for text in stop} | {_BROKEN}
        suspects = [token for token, piece in enumerate(self._pieces) if not last.isdisjoint(piece)]
        return suspects, [token for token in suspects if any(text in self._pieces[token] for text in stop)]

    def window(self, stop: Sequence[str]) -> int:
        """How many last tokens hold any of ``stop`` in full: a token has at least one byte; some more for a cut."""
        return max(len(text.encode()) for text in stop) + 4

    def found(self, tail: Sequence[int], stop: Sequence[str]) -> bool:
        """Whether the text of the last tokens contains one of ``stop``."""
        text = self._detokenize(tail)
        return any(wanted in text for wanted in stop)

    def _piece(self, token: int) -> str:
        # The second of two: some tokenizers strip a space in front of the first.
        once, twice = self._detokenize([token]), self._detokenize([token, token])
        return (twice.removeprefix(once) if twice.startswith(once) else "") or _BROKEN
