"""The table of algorithms: an algorithm is a row of data, never a branch in the training loop.

A row combines named choices. Each is carried out by one file of this folder: ``baseline``, ``scale`` and ``critic`` by
advantages.py and gae.py, ``ratio`` and the clips by policy.py, ``kl`` by kl.py, ``aggregation`` by weights.py,
``keep`` and ``prune`` by selection.py. ``ALGORITHMS["dapo"].clip_high`` is 0.28.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from aha.errors import SettingError
from aha.objective.kl import k1, k2, k3
from aha.objective.weights import Aggregation

Baseline = Literal["none", "batch", "group", "leave_one_out", "greedy", "critic"]
Scale = Literal["none", "group_std", "batch_std"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Critic:
    """A learned value of every token's state, and generalised advantage estimation with it.

    ``gamma``, ``lam_policy``, ``lam_value``: discount, and the lambdas of the policy's advantages and of the value's
    targets (VC-PPO decouples them). ``length_alpha``: lambda of the policy is ``1 - 1 / (length_alpha * length)``
    instead (VAPO). ``clip``: how far a value may move in one rollout (None: freely). ``warmup``: steps in which only
    the critic learns. ``lr_ratio``: its learning rate over the policy's.
    """

    gamma: float = 1.0
    lam_policy: float = 1.0
    lam_value: float = 1.0
    length_alpha: float | None = None
    clip: float | None = 0.2
    warmup: int = 0
    lr_ratio: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """One row.

    ``baseline``: what is subtracted from a reward: nothing, the mean of the batch, of the group, of the others of the
    group, the reward of the greedy answer, or a critic's value.
    ``scale``: what a centred reward is divided by: nothing, the deviation of its group, or that of the batch.
    ``process``: rewards of steps, pooled over the group, instead of one of the outcome.
    ``ratio``: importance of a token, of the whole sequence (geometric mean of its tokens), or none (plain gradient).
    ``clip``: "objective" takes the gradient of tokens outside the range (PPO), "weight" only caps the ratio (CISPO).
    ``clip_low``, ``clip_high``: the range is [1 - clip_low, 1 + clip_high]; inf does not clip.
    ``clip_negative``: ratios of tokens with a negative advantage count at most this (two-sided clip).
    ``mirror``: tau of the squared log-ratio of the sequence to the policy that sampled (mirror descent).
    ``aggregation``: what one token counts (weights.py).
    ``beta``, ``kl``, ``kl_in``: coefficient and per-token estimator of the divergence from the reference, added to the
    loss or taken from the reward; ``kl_weighted`` multiplies the estimator in the loss by the ratio, which makes its
    gradient unbiased. ``beta`` 0 needs no reference.
    ``reference_refresh``: after that many updates the reference becomes the policy; None keeps the first one.
    ``minibatches``: updates made with one rollout.
    ``critic``: for ``baseline="critic"``.
    ``keep``: "mixed" trains on groups whose rewards differ alone; with ``refill`` more are asked until their share of
    the groups asked for is there (1: all of them; DAPO).
    ``rescale``: weigh the loss by (all samples) / (samples with an advantage) (GPG).
    ``prune``: share of each group that is left out, those with the smallest absolute advantage (CPPO).
    ``nll``: weight of an added negative log-likelihood of the right answers (VAPO).
    ``citation``: where the row is published, and which of its values are not.
    """

    name: str
    baseline: Baseline = "group"
    scale: Scale = "none"
    process: bool = False
    ratio: Literal["token", "sequence", "none"] = "token"
    clip: Literal["objective", "weight"] = "objective"
    clip_low: float = math.inf
    clip_high: float = math.inf
    clip_negative: float = math.inf
    mirror: float = 0.0
    aggregation: Aggregation = "token"
    beta: float = 0.0
    kl: Callable[[Tensor, Tensor], Tensor] = k3
    kl_in: Literal["loss", "reward"] = "loss"
    kl_weighted: bool = False
    reference_refresh: int | None = None
    minibatches: int = 1
    critic: Critic | None = None
    keep: Literal["all", "mixed"] = "all"
    refill: float = 0.0
    rescale: bool = False
    prune: float = 0.0
    nll: float = 0.0
    citation: str = ""

    def __post_init__(self) -> None:
        for wrong, why in (
            ((self.baseline == "critic") != (self.critic is not None), "a critic and baseline='critic' go together"),
            (self.process and self.baseline != "group", "step rewards are pooled over the group: baseline='group'"),
            (self.clip_low < 0 or self.clip_high < 0, "a clip range cannot be negative"),
            (self.ratio == "none" and self.is_clipped, "without a ratio there is nothing to clip"),
            (self.clip == "weight" and self.ratio != "token", "a capped weight is a token's: ratio='token'"),
            (not 0 <= self.prune < 1, "prune is a share below 1"),
            (not 0 <= self.refill <= 1, "refill is a share"),
            (bool(self.refill) and self.keep == "all" and not self.rescale, "refill needs groups to be told apart"),
            (self.beta < 0 or self.mirror < 0 or self.nll < 0, "a coefficient cannot be negative"),
            (
                self.beta > 0 and self.kl is k1 and self.kl_in == "loss" and not self.kl_weighted,
                "k1 in the loss has an expected gradient of 0, whatever beta is: take k2 or k3, kl_weighted, or "
                "kl_in='reward'",
            ),
        ):
            if wrong:
                raise SettingError(f"algorithm {self.name!r}: {why}")

    @property
    def is_clipped(self) -> bool:
        return math.isfinite(min(self.clip_low, self.clip_high, self.clip_negative))

    @property
    def per_token(self) -> bool:
        """Whether the tokens of one completion have different advantages: a critic's, those of steps, or the sum of the
        rewards to come. A baseline of samples instead takes a KL in the reward as one number for the completion."""
        return self.critic is not None or self.process or (self.kl_in == "reward" and self.baseline == "none")


_PPO_CLIP = "0.2 is PPO's (1707.06347)"

_ROWS = (
    Algorithm(
        name="reinforce",
        baseline="batch",
        ratio="none",
        aggregation="sum",
        citation="Williams 1992: the gradient of the sequence's log-prob times reward minus a baseline, here the mean "
        "of the batch; one update per batch.",
    ),
    Algorithm(
        name="reinforce++",
        baseline="none",
        scale="batch_std",
        clip_low=0.2,
        clip_high=0.2,
        beta=0.01,
        kl=k1,
        kl_in="reward",
        citation="REINFORCE++ (2501.03262): token KL in the reward, summed forward, normalised over all tokens of the "
        f"batch, {_PPO_CLIP}. beta is not printed; 0.01 is its reference code's default.",
    ),
    Algorithm(
        name="reinforce++-baseline",
        scale="batch_std",
        clip_low=0.2,
        clip_high=0.2,
        beta=0.001,
        kl=k2,
        citation="REINFORCE++ (2501.03262), the variant for reasoning: group mean subtracted, normalised over the "
        "batch, KL as a loss with k2. beta is not printed; 0.001 is DeepSeek-R1's.",
    ),
    Algorithm(
        name="rloo",
        baseline="leave_one_out",
        ratio="none",
        aggregation="sum",
        beta=0.03,
        kl=k1,
        kl_in="reward",
        citation="Back to Basics (2402.14740): reward minus the mean of the others, KL in the reward of the whole "
        "sequence. beta 0.03 is that of a published small run.",
    ),
    Algorithm(
        name="remax",
        baseline="greedy",
        ratio="none",
        aggregation="sum",
        citation="ReMax (2310.10505): the baseline is the reward of the greedy answer. Its KL is left out.",
    ),
    Algorithm(
        name="ppo",
        baseline="critic",
        scale="batch_std",
        clip_low=0.2,
        clip_high=0.2,
        beta=0.001,
        kl=k1,
        kl_in="reward",
        critic=Critic(lam_policy=1.0, lam_value=1.0, lr_ratio=5.0),
        citation="PPO (1707.06347) as InstructGPT (2203.02155) uses it: token KL in the reward, GAE, clipped value "
        "loss. gamma = lambda = 1 and a critic's rate of five times the policy's: Open-Reasoner-Zero (2503.24290); "
        "R1v2 A.3 finds lambda 0.95 clearly worse. beta 0.001 is DeepSeek-R1's.",
    ),
    Algorithm(
        name="grpo",
        scale="group_std",
        aggregation="sequence",
        clip_low=0.2,
        clip_high=0.2,
        beta=0.04,
        citation="DeepSeekMath (2402.03300) equations 3-4 and section 4.2: beta 0.04, one update per rollout. The clip "
        f"range is not stated there: {_PPO_CLIP}. Algorithm 1 refreshes the reference once an outer iteration, of "
        "which section 4.2 gives no length.",
    ),
    Algorithm(
        name="grpo-process",
        scale="group_std",
        process=True,
        aggregation="sequence",
        clip_low=0.2,
        clip_high=0.2,
        beta=0.04,
        citation="DeepSeekMath (2402.03300) section 4.1.3: step rewards of all samples normalised together; a token's "
        "advantage is the sum of those of the steps that end at or after it.",
    ),
    Algorithm(
        name="grpo-r1",
        scale="group_std",
        aggregation="sequence",
        clip_low=10.0,
        clip_high=10.0,
        beta=0.001,
        reference_refresh=400,
        minibatches=16,
        citation="DeepSeek-R1 (2501.12948v2) sections 2.1 and 3.2.1: clip 10, beta 0.001, reference every 400 steps, "
        "8,192 outputs a rollout in 16 mini-batches. It prints the ratio per sequence; the token form is "
        "DeepSeekMath's equation 3. R1-Zero's clip is not stated; 10 is that of the first RL stage.",
    ),
    Algorithm(
        name="dr-grpo",
        aggregation="constant",
        clip_low=0.2,
        clip_high=0.2,
        citation="Dr. GRPO (2503.20783): no division by the deviation, and by a constant instead of the length.",
    ),
    Algorithm(
        name="dapo",
        scale="group_std",
        clip_low=0.2,
        clip_high=0.28,
        minibatches=16,
        keep="mixed",
        refill=1.0,
        citation="DAPO (2503.14476): clip 0.2 and 0.28, mean over all tokens, no KL, groups of equal rewards asked "
        "again, 512 prompts x 16 in 16 updates. Its soft overlong penalty is a reward.",
    ),
    Algorithm(
        name="gspo",
        scale="group_std",
        ratio="sequence",
        aggregation="sequence",
        clip_low=3e-4,
        clip_high=4e-4,
        minibatches=4,
        citation="GSPO (2507.18071) equation 5 and section 5.1: the ratio of the sequence to the power 1 / length, "
        "clip 3e-4 and 4e-4, four mini-batches per rollout, no KL.",
    ),
    Algorithm(
        name="cispo",
        scale="group_std",
        clip="weight",
        clip_high=4.0,
        citation="CISPO, MiniMax-M1 (2506.13585) equation 4: the weight min(ratio, 1 + clip_high) carries no gradient "
        "and no token loses its own; no lower bound, no KL. clip_high is tuned there and not printed; ScaleRL "
        "(2510.13786) takes a largest weight of 5.",
    ),
    Algorithm(
        name="gpg",
        ratio="none",
        rescale=True,
        refill=0.6,
        citation="GPG (2504.02546): no ratio, clip, KL or reference; the gradient is weighed by B / (B - M) for M "
        "samples of no advantage, and a batch with fewer than 60 % of useful ones is filled up.",
    ),
    Algorithm(
        name="cppo",
        scale="group_std",
        aggregation="sequence",
        clip_low=0.2,
        clip_high=0.2,
        beta=0.04,
        prune=0.875,
        citation="CPPO (2503.22342): GRPO on the completions with the largest absolute advantages; 0.875 of a group "
        "are pruned in its best run. beta is GRPO's.",
    ),
    Algorithm(
        name="vapo",
        baseline="critic",
        scale="batch_std",
        clip_low=0.2,
        clip_high=0.28,
        minibatches=16,
        critic=Critic(lam_value=1.0, length_alpha=0.05, warmup=50, lr_ratio=2.0),
        nll=0.1,
        citation="VAPO (2504.05118): value pre-training of 50 steps, lambda 1 for the value and 1 - 1 / (0.05 length) "
        "for the policy, clip 0.2 and 0.28, mean over all tokens, 0.1 of the likelihood of right answers, critic 2e-6 "
        "and policy 1e-6.",
    ),
    Algorithm(
        name="kimi",
        ratio="none",
        mirror=0.1,
        aggregation="sum",
        minibatches=4,
        citation="Kimi k1.5 (2501.12599) section 2.3.2: reward minus the group's mean, and tau / 2 of the squared "
        "log-ratio to the policy of the iteration's start; several updates per rollout. tau and their number are not "
        "printed: 0.1 and 4 are ours.",
    ),
)

ALGORITHMS = {row.name: row for row in _ROWS}
