"""Weights go to the sampler, and it is proven that they arrived: by digest, and by the log-probs of one probe sequence.

Three peers had runs that sampled from the initial policy for weeks without an error; this is the check that stops them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aha.errors import InvariantError
from aha.model.decoder import Decoder
from aha.rollout.native.engine import NativeEngine
from aha.rollout.native.weights import decoder_digest

PROBE_TOKENS = 16
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.5, torch.int8: 4.0}  # of one token
MEAN_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.int8: 0.3}  # of the mean over the tokens of a step


def sync_weights(engine: NativeEngine, decoder: Decoder, *, version: int) -> float:
    """Load ``decoder`` into ``engine`` as ``version``; returns the probe's largest log-prob gap in nats.

    ``InvariantError`` when the digests differ or the probe's log-probs differ by more than its data
    type explains.
    """
    dtype, device = engine.dtype, decoder.head_weight.device
    engine.load_weights(decoder, version)
    trainer = decoder_digest(decoder, decoder.config, dtype=dtype, ahead=engine.speculate)
    sampler = engine.digest()
    if trainer != sampler:
        raise InvariantError(
            f"sampler weights {sampler} are not trainer weights {trainer} after sync to version {version}"
        )
    probe = [(7919 * (i + 1)) % decoder.config.vocab_size for i in range(PROBE_TOKENS)]
    with torch.no_grad():
        hidden_BTD = decoder(torch.tensor([probe], device=device))
        logp_TV: Tensor = decoder.logits(hidden_BTD)[0].float().log_softmax(-1)
    expected = logp_TV[torch.arange(PROBE_TOKENS - 1), torch.tensor(probe[1:])].cpu()
    gap = float((expected - torch.tensor(engine.score([probe])[0])).abs().max())
    if not math.isfinite(gap) and (broken := [n for n, p in decoder.named_parameters() if not p.isfinite().all()]):
        raise InvariantError(
            f"{len(broken)} tensors of version {version} of the weights hold NaN or infinity, {broken[0]} for one: go "
            "back to the last good checkpoint, or fetch the model again"
        )
    if not gap <= TOLERANCE[dtype]:
        raise InvariantError(
            f"after sync to version {version} the sampler's log-probs of the probe differ by {gap:.2e} from the "
            f"trainer's (allowed {TOLERANCE[dtype]:.0e}): the two compute different models"
        )
    return gap


def check_agreement(mean_gap: float, *, dtype: torch.dtype, step: int) -> None:
    """``InvariantError`` when a step's mean log-prob gap between sampler and trainer is more than rounding.

    The probe of ``sync_weights`` is 16 tokens; this is every token that a step trains on. On policy the ratio is 1, or
    the gradient is of another objective than the one that was meant.
    """
    if not mean_gap <= MEAN_TOLERANCE[dtype]:
        raise InvariantError(
            f"step {step}: sampler and trainer differ by {mean_gap:.2e} nats a token on the same weights (allowed "
            f"{MEAN_TOLERANCE[dtype]:.0e}): the two compute different models"
        )
