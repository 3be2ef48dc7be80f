"""One layer's feed-forward in the sampler, dense or a mixture of experts: weights, and what is computed with them.

B tokens, D width, F feed-forward width, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from aha.model.config import ModelConfig
from aha.model.moe import ROUTER_BIAS, RoutingRule, route, run_experts
from aha.rollout.native.matrix import Make, Matrix, Panels, floats, part_of
from aha.rollout.native.norm import Norm
from aha.rollout.native.source import Source
from aha.rollout.native.workspace import Workspace


class Dense:
    """SwiGLU behind a norm; gate and up are one matrix ``[2F, D]``."""

    def __init__(self, config: ModelConfig, empty: Callable[..., Tensor], matrix: Make) -> None:
        D, width = config.hidden_size, config.intermediate_size
        self._norm = Norm(D, config.rms_norm_eps, empty)
        self._gate_up, self._down = matrix(2 * width, D, width=part_of(width)), matrix(D, width)

    def copy_from(self, source: Source, at: str) -> None:
        """Overwrites every weight with those of the layer whose names start with ``at``."""
        with self._norm.rewrite() as plain:
            source.copy(at + "post_attention_layernorm.weight", plain)
        _copy_swiglu(source, at + "mlp.", self._gate_up, self._down)

    def named(self, at: str) -> Iterator[tuple[str, Tensor]]:
        """Every weight under its published name, in its published layout."""
        yield at + "post_attention_layernorm.weight", self._norm.weight_D
        yield from _named_swiglu(at + "mlp.", self._gate_up, self._down)

    def forward(self, x_BD: Tensor) -> Tensor:
        """``x`` with the feed-forward of its norm added."""
        return _add_swiglu(x_BD, self._norm.of(x_BD), self._gate_up, self._down)

    @property
    def is_by_panels(self) -> bool:
        """Whether ``forward_in`` works."""
        return isinstance(self._gate_up, Panels) and isinstance(self._down, Panels)

    def forward_in(self, space: Workspace) -> None:
        """``forward`` of ``space.x_BD``, in its place."""
        assert isinstance(self._gate_up, Panels) and isinstance(self._down, Panels)
        self._norm.write(space)
        self._gate_up.write(space.gate_up_PBW, space.normed_for_gate_up)
        F.silu(space.gate, inplace=True)
        torch.mul(space.gate, space.up, out=space.made_PBW)
        self._down.write(space.added_PBW, space.made_for_down)
        space.x_BPW.add_(space.added_BPW)


class Mixture:
    """Routed experts, in the trainer's own layout, and the shared ones as one SwiGLU."""

    def __init__(self, config: ModelConfig, empty: Callable[..., Tensor]) -> None:
        D, E, width = config.hidden_size, config.n_routed_experts, config.moe_intermediate_size
        shared = config.n_shared_experts * width
        self._rule, self._norm = RoutingRule.of(config), Norm(D, config.rms_norm_eps, empty)
        self._router_ED = empty(E, D)
        self._bias_E = empty(E).float() if self._rule.sigmoid else None
        self._experts_gate_up, self._experts_down = empty(E, 2 * width, D), empty(E, D, width)
        self._shared = None
        if shared:
            self._shared = floats(2 * shared, D, empty, width=part_of(shared)), floats(D, shared, empty)

    def copy_from(self, source: Source, at: str) -> None:
        """Overwrites every weight with those of the layer whose names start with ``at``."""
        with self._norm.rewrite() as plain:
            source.copy(at + "post_attention_layernorm.weight", plain)
        source.copy(at + "mlp.gate.weight", self._router_ED)
        if self._bias_E is not None:
            source.copy(f"{at}mlp.gate.{ROUTER_BIAS}", self._bias_E)
        source.copy(at + "mlp.experts.gate_up_proj", self._experts_gate_up)
        source.copy(at + "mlp.experts.down_proj", self._experts_down)
        if self._shared is not None:
            _copy_swiglu(source, at + "mlp.shared_experts.", *self._shared)

    def named(self, at: str) -> Iterator[tuple[str, Tensor]]:
        """Every weight under the name that the decoder has it by."""
        yield at + "post_attention_layernorm.weight", self._norm.weight_D
        yield at + "mlp.gate.weight", self._router_ED
        if self._bias_E is not None:
            yield f"{at}mlp.gate.{ROUTER_BIAS}", self._bias_E
        yield at + "mlp.experts.gate_up_proj", self._experts_gate_up
        yield at + "mlp.experts.down_proj", self._experts_down
        if self._shared is not None:
            yield from _named_swiglu(at + "mlp.shared_experts.", *self._shared)

    def forward(self, x_BD: Tensor) -> Tensor:
        """``x`` with the mixture of its norm added."""
        normed = self._norm.of(x_BD)
        _, weights_BK, experts_BK = route(normed, self._router_ED, self._bias_E, self._rule)
        made = run_experts(normed, weights_BK, experts_BK, self._experts_gate_up, self._experts_down)
        x_BD = x_BD + made
        return x_BD if self._shared is None else _add_swiglu(x_BD, normed, *self._shared)


def _add_swiglu(x_BD: Tensor, normed_BD: Tensor, gate_up: Matrix, down: Matrix) -> Tensor:
    gate, up = gate_up.parts(normed_BD).chunk(2, 1)
    made = torch.mul(F.silu(gate), up, out=normed_BD.new_empty(gate.shape))  # side by side, whatever the parts are
    return down.add(x_BD, made.view(len(made), -1))


def _copy_swiglu(source: Source, at: str, gate_up: Matrix, down: Matrix) -> None:
    with gate_up.rewrite() as plain:
        for part, into in zip(("gate", "up"), plain.chunk(2), strict=True):
            source.copy(f"{at}{part}_proj.weight", into)
    with down.rewrite() as plain:
        source.copy(at + "down_proj.weight", plain)


def _named_swiglu(at: str, gate_up: Matrix, down: Matrix) -> Iterator[tuple[str, Tensor]]:
    for suffix, whole in gate_up.read():
        for part, fused in zip(("gate", "up"), whole.chunk(2), strict=True):
            yield f"{at}{part}_proj.weight{suffix}", fused
    for suffix, whole in down.read():
        yield f"{at}down_proj.weight{suffix}", whole
