"""Random numbers of torch from named streams; torch's global generator is never used."""

from __future__ import annotations

import torch

from aha.util.seeds import stream


def torch_rng(seed: int, *names: str | int) -> torch.Generator:
    """A generator on the CPU for the stream ``names`` of ``seed``: ``torch_rng(0, "sft", "order", epoch)``."""
    return torch.Generator().manual_seed(stream(seed, *names))
