"""Multi-token prediction (DeepSeek-V3, 2412.19437, section 2.2): modules behind the body that look further ahead.

Module k, from 1, reads at place i what module k - 1 made of it (module 0 is the body) and the token i + k, and predicts
token i + k + 1::

    h'_i = eh_proj([enorm(Emb(t_{i+k})); hnorm(h_i^{k-1})])        h_i^k = shared_head.norm(layer(h'_i))

Embedding and output head are the body's own, the layer is one of its kind. The published weights want the embedding
first in the product, the other way round than the paper's equation 21, and a norm of its own before the shared head.
As open implementations do, ``h^0`` is the body's state after its final norm, and each module hands on its normed state.

Axes: ``B`` rows, ``T`` tokens, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from aha.model.norm import RMSNorm


class _SharedHead(nn.Module):
    """Holds the name ``shared_head.norm``; the head itself is the body's."""

    def __init__(self, width: int, *, eps: float) -> None:
        super().__init__()
        self.norm = RMSNorm(width, eps=eps)


class MtpModule(nn.Module):
    """One module around ``layer``, a decoder layer of the body's kind whose parts lie beside this module's own.

    So its parameters have the published names: ``enorm``, ``hnorm``, ``eh_proj``, ``shared_head.norm``, and those of a
    layer. Behind a body of L layers module k stands as ``model.layers.{L + k - 1}``.
    """

    def __init__(self, layer: nn.Module, *, width: int, eps: float) -> None:
        super().__init__()
        self.enorm = RMSNorm(width, eps=eps)
        self.hnorm = RMSNorm(width, eps=eps)
        self.eh_proj = nn.Linear(2 * width, width, bias=False)
        self.shared_head = _SharedHead(width, eps=eps)
        for name, part in layer.named_children():
            self.add_module(name, part)
        self._layer = (layer,)  # in a tuple, or its parts would be registered a second time under another name

    def forward(self, embedding_BTD: Tensor, hidden_BTD: Tensor, *context: Any) -> Tensor:
        """The next ``hidden_BTD``, normed; ``context`` is what the layer takes beside its input."""
        x_BTD = self.eh_proj(torch.cat((self.enorm(embedding_BTD), self.hnorm(hidden_BTD)), -1))
        return cast(Tensor, self.shared_head.norm(self._layer[0](x_BTD, *context)))


def look_ahead(
    modules: Iterable[nn.Module],
    embed: Callable[[Tensor], Tensor],
    hidden_BTD: Tensor,
    next_BT: Tensor,
    *context: Any,
) -> list[Tensor]:
    """``[B, T, D]`` of each module in turn; ``next_BT`` is the token after each place.

    ``context`` is the body's own (who attends to whom, rotation): a module's places are those of its hidden states, and
    a rotation that is the same distance off everywhere changes no score. Module k has nothing to read at the last k - 1
    places of a sequence; what it makes there is of no meaning, and nothing left of them sees it.
    """
    states = []
    for module in modules:
        hidden_BTD = module(embed(next_BT), hidden_BTD, *context)
        states.append(hidden_BTD)
        next_BT = next_BT.roll(-1, 1)
    return states
