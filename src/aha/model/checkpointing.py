"""Gradient checkpointing (Chen et al. 2016, 1604.06174): a layer keeps its input and is computed again for its
gradient. A third more arithmetic; of all layers' activations those of one are in memory at a time."""

from __future__ import annotations

from functools import partial

from torch.utils.checkpoint import checkpoint

from aha.errors import SettingError
from aha.model.decoder import Decoder


def checkpoint_layers(decoder: Decoder) -> None:
    """From now on every layer of the body is computed again in the backward pass; gradients stay the same bits.

    ``SettingError`` for a mixture of experts: its load is counted while it computes, and would be counted twice.
    """
    if decoder.config.n_routed_experts:
        raise SettingError("checkpointing=true with experts: their load would be counted twice; leave it out")
    for layer in decoder.body_layers():
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
