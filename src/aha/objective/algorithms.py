"""The table of algorithms: an algorithm is a row of data, never a branch in the training loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from aha.objective.kl import k3
from aha.objective.weights import Aggregation


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """One row.

    ``advantage_scale``: whether a centred reward is divided by its group's deviation (objective/advantages.py).
    ``aggregation``: what one token counts (objective/weights.py).
    ``clip_low``, ``clip_high``: the ratio is kept in [1 - clip_low, 1 + clip_high].
    ``beta``, ``kl``: coefficient and per-token estimator of the divergence from the reference; 0 needs no reference.
    ``reference_refresh``: after that many updates the reference becomes the policy; None keeps the first one.
    ``minibatches``: updates made with one rollout; their old log-probs stay the sampler's.
    ``citation``: where the row is published, and which of its values are not.
    """

    name: str
    advantage_scale: Literal["std", "none"]
    aggregation: Aggregation
    clip_low: float
    clip_high: float
    beta: float
    kl: Callable[[Tensor, Tensor], Tensor] = k3
    reference_refresh: int | None
    minibatches: int
    citation: str


GRPO = Algorithm(
    name="grpo",
    advantage_scale="std",
    aggregation="sequence",
    clip_low=0.2,
    clip_high=0.2,
    beta=0.04,
    reference_refresh=None,
    minibatches=1,
    citation="DeepSeekMath (2402.03300) equations 3-4 and section 4.2: beta 0.04, one update per rollout. The clip "
    "range is not stated there: 0.2 is PPO's (1707.06347). Algorithm 1 refreshes the reference once an outer "
    "iteration, of which section 4.2 gives no length.",
)

GRPO_R1 = Algorithm(
    name="grpo_r1",
    advantage_scale="std",
    aggregation="sequence",
    clip_low=10.0,
    clip_high=10.0,
    beta=0.001,
    reference_refresh=400,
    minibatches=16,
    citation="DeepSeek-R1 (2501.12948v2) sections 2.1 and 3.2.1: clip 10, beta 0.001, reference every 400 steps, 8,192 "
    "outputs a rollout in 16 mini-batches. It prints the ratio per sequence; the token form is DeepSeekMath's equation "
    "3. R1-Zero's clip is not stated; 10 is that of the first RL stage.",
)

ALGORITHMS = {row.name: row for row in (GRPO, GRPO_R1)}
