"""Named seed streams: all randomness of a run is a pure function of one seed and the names of what it is for."""

from __future__ import annotations

import hashlib
import random


def stream(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream ``names`` of ``seed``: ``stream(0, "r1_zero", "sample", 17)``.

    Streams are independent (SHA-256) and equal on every machine; ``3`` and ``"3"``, ``"a", "b"`` and ``"ab"`` differ.
    """
    digest = hashlib.sha256(repr((int(seed), *names)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def python_rng(seed: int, *names: str | int) -> random.Random:
    """A ``random.Random`` of its own for the stream ``names`` of ``seed``."""
    return random.Random(stream(seed, *names))
