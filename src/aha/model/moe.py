"""DeepSeekMoE: a router, routed experts, shared experts (DeepSeek-V3, 2412.19437, equations 12 to 16; V2, 2405.04434).

Every token goes to the ``K`` experts of its choice; none is dropped, whatever the load. DeepSeek-V3 keeps the load even
by a bias on the choice alone, which training moves after each step (``objective/balance.py``, ``train/balance.py``).

Axes: ``M`` tokens, ``D`` width, ``E`` experts, ``K`` chosen experts, ``F`` width of an expert.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aha.model.config import ModelConfig
from aha.model.feedforward import DenseFeedForward

ROUTER_BIAS = "e_score_correction_bias"


class Routed(NamedTuple):
    """What a router decided in one pass: affinities ``[M, E]`` (with gradients) and chosen experts ``[M, K]``."""

    scores_ME: Tensor
    experts_MK: Tensor


@dataclass(frozen=True, slots=True)
class RoutingRule:
    """How affinities become a choice and its weights: ``sigmoid`` with a bias is V3's, else V2's softmax."""

    sigmoid: bool
    num_chosen: int
    num_groups: int
    groups_chosen: int
    normalise: bool
    scale: float

    @classmethod
    def of(cls, config: ModelConfig) -> RoutingRule:
        return cls(
            sigmoid=config.model_type == "deepseek_v3",
            num_chosen=config.num_experts_per_tok,
            num_groups=config.n_group,
            groups_chosen=config.topk_group,
            normalise=bool(config.norm_topk_prob),
            scale=config.routed_scaling_factor,
        )


class Router(nn.Module):
    """Affinities in float32 and the choice. The bias has no gradient and stays in float32 in a model of 16 bits.

    ``routed`` is what the last pass with gradients decided, for whoever balances the load; a pass that is computed
    again for its gradients overwrites it with the same.
    """

    e_score_correction_bias: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        self.rule = RoutingRule.of(config)
        if self.rule.sigmoid:
            self.register_buffer(ROUTER_BIAS, torch.zeros(config.n_routed_experts, dtype=torch.float32))
        self.routed: Routed | None = None

    def forward(self, x_MD: Tensor) -> tuple[Tensor, Tensor]:
        """Weights ``[M, K]`` and experts ``[M, K]`` of each token."""
        bias_E = self.e_score_correction_bias if self.rule.sigmoid else None
        scores_ME, weights_MK, experts_MK = route(x_MD, self.weight, bias_E, self.rule)
        if torch.is_grad_enabled():
            self.routed = Routed(scores_ME, experts_MK)
        return weights_MK, experts_MK

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "routed": None}  # what hangs on a graph cannot be copied

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Router:
        """Moves all, but casts the bias to nothing: a step of 0.001 would vanish in 16 bits."""
        kept = self.e_score_correction_bias if self.rule.sigmoid else None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if kept is not None:
            device = self.e_score_correction_bias.device
            self.e_score_correction_bias = torch.empty_like(kept, device=device) if kept.is_meta else kept.to(device)
        return self


class Experts(nn.Module):
    """SwiGLU networks side by side; ``gate_up_proj`` holds each one's gate rows, then its up rows."""

    def __init__(self, num_experts: int, width: int, inner: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(num_experts, 2 * inner, width))
        self.down_proj = nn.Parameter(torch.empty(num_experts, width, inner))

    def forward(self, x_MD: Tensor, weights_MK: Tensor, experts_MK: Tensor) -> Tensor:
        return run_experts(x_MD, weights_MK, experts_MK, self.gate_up_proj, self.down_proj)


class MixtureOfExperts(nn.Module):
    """``shared(x) + sum over the chosen experts of weight * expert(x)``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.moe_intermediate_size
        self.gate = Router(config)
        self.experts = Experts(config.n_routed_experts, width, inner)
        shared = config.n_shared_experts
        self.shared_experts = DenseFeedForward(width, shared * inner) if shared else None

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_MD = x_BTD.flatten(0, -2)
        routed: Tensor = self.experts(x_MD, *self.gate(x_MD)).view_as(x_BTD)
        return routed if self.shared_experts is None else routed + self.shared_experts(x_BTD)


def route(
    x_MD: Tensor, weight_ED: Tensor, bias_E: Tensor | None, rule: RoutingRule
) -> tuple[Tensor, Tensor, Tensor]:
    """Affinities ``[M, E]``, weights ``[M, K]`` and experts ``[M, K]`` of each token, in at least float32.

    The bias counts for the choice alone; the weights are the chosen experts' own affinities, normalised where the rule
    says so, times its scale.
    """
    wide = torch.promote_types(x_MD.dtype, torch.float32)
    logits_ME = F.linear(x_MD.to(wide), weight_ED.to(wide))
    scores_ME = logits_ME.sigmoid() if rule.sigmoid else logits_ME.softmax(-1)
    biased_ME = scores_ME.detach() if bias_E is None else scores_ME.detach() + bias_E
    best = 2 if rule.sigmoid else 1
    experts_MK = choose_experts(biased_ME, rule.num_chosen, rule.num_groups, rule.groups_chosen, best=best)
    weights_MK = scores_ME.gather(1, experts_MK)
    if rule.normalise:
        weights_MK = weights_MK / (weights_MK.sum(-1, keepdim=True) + 1e-20)
    return scores_ME, weights_MK * rule.scale, experts_MK


def choose_experts(scores_ME: Tensor, num_chosen: int, num_groups: int, groups_chosen: int, *, best: int) -> Tensor:
    """The ``num_chosen`` best experts ``[M, K]`` of the ``groups_chosen`` best groups, by ``scores_ME``.

    Experts stand in ``num_groups`` groups (one a node); a group is worth the sum of its ``best`` experts' scores: 2 in
    V3, 1 in V2. Experts of other groups count -inf and not 0: biased scores may be negative.
    """
    if groups_chosen < num_groups:
        groups_MGe = scores_ME.view(len(scores_ME), num_groups, -1)
        worth_MG = groups_MGe.topk(best, -1).values.sum(-1)
        kept_MG = torch.zeros_like(worth_MG, dtype=torch.bool)
        kept_MG.scatter_(1, worth_MG.topk(groups_chosen, -1).indices, True)
        scores_ME = groups_MGe.masked_fill(~kept_MG[..., None], -torch.inf).flatten(1)
    return scores_ME.topk(num_chosen, -1).indices


def run_experts(
    x_MD: Tensor, weights_MK: Tensor, experts_MK: Tensor, gate_up_EFD: Tensor, down_EDF: Tensor
) -> Tensor:
    """The weighted sum ``[M, D]`` of what each token's experts make of it.

    Tokens are sorted by expert, so that every expert is one matrix product over all its tokens; the products of all
    experts are one grouped kernel where the device has it. Each token's results are summed in the order of its choice.
    """
    M, K = experts_MK.shape
    order = experts_MK.flatten().argsort(stable=True)
    counts_E = torch.bincount(experts_MK.flatten(), minlength=len(gate_up_EFD))
    rows = x_MD.index_select(0, order // K)
    product = _grouped if _has_grouped_kernel(x_MD, down_EDF) else _one_by_one
    gate, up = product(rows, gate_up_EFD, counts_E).chunk(2, -1)
    made = product(F.silu(gate) * up, down_EDF, counts_E)
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=order.device)
    made_MKD = made.index_select(0, places).view(M, K, -1)
    return torch.bmm(weights_MK.to(made.dtype)[:, None], made_MKD)[:, 0]


def _has_grouped_kernel(x_MD: Tensor, down_EDF: Tensor) -> bool:
    # Rows must start at multiples of 16 bytes: 8 numbers of 16 bits.
    aligned = x_MD.shape[-1] % 8 == 0 and down_EDF.shape[-1] % 8 == 0
    return x_MD.is_cuda and x_MD.dtype == torch.bfloat16 and aligned


def _grouped(rows: Tensor, weights_EOI: Tensor, counts_E: Tensor) -> Tensor:
    ends_E = counts_E.cumsum(0).to(torch.int32)
    return F.grouped_mm(rows, weights_EOI.transpose(1, 2), offs=ends_E)


def _one_by_one(rows: Tensor, weights_EOI: Tensor, counts_E: Tensor) -> Tensor:
    """A matrix product for every expert that has tokens."""
    parts = zip(torch.split(rows, counts_E.tolist()), weights_EOI.unbind(), strict=True)
    made = [F.linear(part, weight) for part, weight in parts if len(part)]
    return torch.cat(made) if made else rows.new_zeros(0, weights_EOI.shape[1])
