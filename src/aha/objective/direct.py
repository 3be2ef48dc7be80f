"""Preference optimisation: a policy learns straight from pairs, without a reward model; the losses and their table.

Shape: B pairs. A policy's *score* of a completion is its log-probability, less the reference's where the row has one,
summed over the completion's tokens or their mean (``compute_score``). ``PREFERENCES["dpo"].beta`` is 0.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from aha.errors import SettingError


def dpo_loss(chosen_B: Tensor, rejected_B: Tensor, *, beta: float) -> Tensor:
    """``-log sigmoid(beta (chosen - rejected))``, [B]: ln 2 where the policy is the reference.

    Source: DPO (2305.18290) equation 7.
    """
    return -F.logsigmoid(beta * (chosen_B - rejected_B))


def ipo_loss(chosen_B: Tensor, rejected_B: Tensor, *, beta: float) -> Tensor:
    """``(chosen - rejected - 1 / (2 beta))^2``, [B]: the margin has a target, so that a pair that is always judged the
    same does not drive it to infinity.

    Source: IPO (2310.12036) equation 17, its tau being ``beta``.
    """
    return (chosen_B - rejected_B - 1 / (2 * beta)).square()


def simpo_loss(chosen_B: Tensor, rejected_B: Tensor, *, beta: float, margin: float) -> Tensor:
    """``-log sigmoid(beta (chosen - rejected) - margin)``, [B], for scores that are means over tokens.

    Source: SimPO (2405.14734) equation 6, its gamma being ``margin``.
    """
    return -F.logsigmoid(beta * (chosen_B - rejected_B) - margin)


def kto_loss(
    chosen_B: Tensor, rejected_B: Tensor, baseline: Tensor, *, beta: float, desirable: float, undesirable: float
) -> Tensor:
    """Mean of ``desirable (1 - sigmoid(beta (chosen - z)))`` and ``undesirable (1 - sigmoid(beta (z - rejected)))``,
    [B]: each completion is judged by itself, against the policy's usual distance z from the reference.

    ``baseline`` is the mean score of completions of other prompts, a scalar; z is it or 0, whatever is larger, and has
    no gradient.

    Source: KTO (2402.01306) equation 8, lambda_D and lambda_U being ``desirable`` and ``undesirable``.
    """
    z = baseline.detach().clamp(min=0.0)
    chosen_loss_B = desirable * (1 - (beta * (chosen_B - z)).sigmoid())
    rejected_loss_B = undesirable * (1 - (beta * (z - rejected_B)).sigmoid())
    return (chosen_loss_B + rejected_loss_B) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """One row.

    ``loss``: which function of this file. ``beta``: how closely the policy is held to the reference; without one, the
    scale of the score. ``margin``: what the reward of a chosen completion should exceed that of a rejected one by.
    ``reference``: scores are log-ratios to the weights that training began with.
    ``per_token``: scores are means over tokens instead of sums.
    ``desirable``, ``undesirable``: weights of chosen and rejected completions where each counts by itself.
    ``citation``: where the row is published, and which of its values are not.
    """

    name: str
    loss: Literal["dpo", "ipo", "kto", "simpo"]
    beta: float
    margin: float = 0.0
    reference: bool = True
    per_token: bool = False
    desirable: float = 1.0
    undesirable: float = 1.0
    citation: str = ""

    def __post_init__(self) -> None:
        for wrong, why in (
            (not self.beta > 0, f"beta is {self.beta}; it has to be above 0"),
            (self.margin != 0 and self.loss != "simpo", f"margin is {self.margin}, but {self.loss} has none: leave 0"),
            (min(self.desirable, self.undesirable) < 0, "a weight cannot be negative"),
            (self.loss == "kto" and not self.reference, "kto measures the distance from a reference"),
        ):
            if wrong:
                raise SettingError(f"preference {self.name!r}: {why}")

    @property
    def needs_baseline(self) -> bool:
        """Whether completions of other prompts are scored too."""
        return self.loss == "kto"


def compute_score(
    logp_sum_B: Tensor, reference_sum_B: Tensor | None, num_tokens_B: Tensor, *, row: Preference
) -> Tensor:
    """The scores [B] of completions whose log-probs sum to ``logp_sum_B``, and to ``reference_sum_B`` under the
    reference."""
    score_B = logp_sum_B - reference_sum_B if row.reference and reference_sum_B is not None else logp_sum_B
    return score_B / num_tokens_B if row.per_token else score_B


def compute_pair_losses(chosen_B: Tensor, rejected_B: Tensor, baseline: Tensor, *, row: Preference) -> Tensor:
    """The loss [B] of pairs with these scores; ``baseline`` is read by ``kto`` alone."""
    match row.loss:
        case "dpo":
            return dpo_loss(chosen_B, rejected_B, beta=row.beta)
        case "ipo":
            return ipo_loss(chosen_B, rejected_B, beta=row.beta)
        case "simpo":
            return simpo_loss(chosen_B, rejected_B, beta=row.beta, margin=row.margin)
        case "kto":
            weights = {"desirable": row.desirable, "undesirable": row.undesirable}
            return kto_loss(chosen_B, rejected_B, baseline, beta=row.beta, **weights)


_ROWS = (
    Preference(
        name="dpo",
        loss="dpo",
        beta=0.1,
        citation="DPO (2305.18290) equation 7; beta 0.1 is that of its appendix B.",
    ),
    Preference(
        name="ipo",
        loss="ipo",
        beta=0.1,
        per_token=True,
        citation="IPO (2310.12036) equation 17. Scores are means over tokens, as TRL's, whose authors had it confirmed "
        "by IPO's: a sum would make the target one of length. beta 0.1 is TRL's default.",
    ),
    Preference(
        name="kto",
        loss="kto",
        beta=0.1,
        citation="KTO (2402.01306) equations 7-8: beta 0.1 and weights of 1 for as many desirable as undesirable "
        "completions.",
    ),
    Preference(
        name="simpo",
        loss="simpo",
        beta=2.0,
        margin=1.0,
        reference=False,
        per_token=True,
        citation="SimPO (2405.14734) equation 6 and section 3: beta 2.0 to 2.5, gamma / beta about 0.5, no reference.",
    ),
)

PREFERENCES = {row.name: row for row in _ROWS}
