"""A slice of the decoder: the first has the embedding, the last the final norm and the head.

Axes: ``B`` sequences, ``T`` tokens, ``D`` width, ``V`` vocabulary.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from aha.errors import SettingError
from aha.model.attention.gqa import GroupedQueryAttention
from aha.model.attention.plan import plan_causal
from aha.model.decoder import Decoder, check_window
from aha.model.feedforward import DenseFeedForward


class DecoderStage(nn.Module):
    """Stage ``index`` of ``num_stages``; its modules and weights are the decoder's own, nothing is copied.

    Layers are spread evenly; ``SettingError`` if there are fewer than stages. Stages cut from one decoder share what it
    shares: where the embedding is tied to the head, the first and the last stage of a process have one weight.
    """

    def __init__(self, decoder: Decoder, index: int, num_stages: int) -> None:
        super().__init__()
        self.config = config = decoder.config
        num = config.num_hidden_layers
        if num < num_stages:
            raise SettingError(f"{num} layers cannot be cut into {num_stages} stages: use fewer processes")
        self.embed_tokens = decoder.model.embed_tokens if index == 0 else None
        self.layers = decoder.model.layers[num * index // num_stages : num * (index + 1) // num_stages]
        for module in self.layers.modules():
            if isinstance(module, DenseFeedForward | GroupedQueryAttention):
                module.fused = False
        last = index == num_stages - 1
        self.norm = decoder.model.norm if last else None
        self.lm_head = decoder.lm_head if last else None
        self.rotations = decoder.rotations
        self.group = config.num_attention_heads // config.num_key_value_heads

    def forward(self, x: Tensor) -> Tensor:
        """Ids ``[B, T]`` (first stage) or hidden states ``[B, T, D]`` into hidden states, or logits ``[B, T, V]``."""
        x_BTD = x if self.embed_tokens is None else self.embed_tokens(x)
        T = x_BTD.shape[1]
        check_window(self.config, T)
        rotation = self.rotations.first(T, dtype=x_BTD.dtype, device=x_BTD.device)
        attend = plan_causal(x_BTD, rows=x_BTD.shape[0], tokens=T, group=self.group)
        for layer in self.layers:
            x_BTD = layer(x_BTD, rotation, attend)
        if self.norm is None or self.lm_head is None:
            return x_BTD
        return cast(Tensor, self.lm_head(self.norm(x_BTD)))
