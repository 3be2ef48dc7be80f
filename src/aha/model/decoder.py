"""The decoder: one plain module tree for llama, qwen2 and qwen3, with Hugging Face's parameter names.

Axes: ``B`` sequences, ``T`` tokens, ``V`` vocabulary, ``D`` width, ``N`` heads, ``K`` key/value heads, ``H`` head
width, ``F`` feed-forward width.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aha.model.attention import Attend, Branches, plan_attention, plan_branches
from aha.model.config import ModelConfig
from aha.model.mtp import MtpModule, look_ahead
from aha.model.norm import RMSNorm
from aha.model.rope import Rotation, RotationTable, rotate


class GroupedQueryAttention(nn.Module):
    """Attention whose query heads share key/value heads in groups (Ainslie et al. 2023)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, N, K, H = config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.head_dim = H
        self.q_proj = nn.Linear(D, N * H, bias=config.qkv_bias)
        self.k_proj = nn.Linear(D, K * H, bias=config.qkv_bias)
        self.v_proj = nn.Linear(D, K * H, bias=config.qkv_bias)
        self.o_proj = nn.Linear(N * H, D, bias=config.o_bias)
        self.q_norm = RMSNorm(H, eps=config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(H, eps=config.rms_norm_eps) if config.qk_norm else None

    def forward(self, x_BTD: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        q_BTNH = self.q_proj(x_BTD).unflatten(-1, (-1, self.head_dim))
        k_BTKH = self.k_proj(x_BTD).unflatten(-1, (-1, self.head_dim))
        v_BTKH = self.v_proj(x_BTD).unflatten(-1, (-1, self.head_dim))
        if self.q_norm is not None and self.k_norm is not None:
            q_BTNH, k_BTKH = self.q_norm(q_BTNH), self.k_norm(k_BTKH)
        read_BTNH = attend(rotate(q_BTNH, rotation), rotate(k_BTKH, rotation), v_BTKH)
        return cast(Tensor, self.o_proj(read_BTNH.flatten(2)))


class DenseFeedForward(nn.Module):
    """SwiGLU (Shazeer 2020, section 2): ``down(silu(gate x) * up x)``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, width = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(D, width, bias=False)
        self.up_proj = nn.Linear(D, width, bias=False)
        self.down_proj = nn.Linear(width, D, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return cast(Tensor, self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD)))


class DecoderLayer(nn.Module):
    """Pre-norm attention and feed-forward, each added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attn = GroupedQueryAttention(config)
        self.mlp = DenseFeedForward(config)
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, x_BTD: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), rotation, attend)
        return cast(Tensor, x_BTD + self.mlp(self.post_attention_layernorm(x_BTD)))


class _Trunk(nn.Module):
    """What Hugging Face calls ``model``: embedding, layers, final norm. Only a holder of parameter names.

    Behind the layers, in the same list as published, stand the modules of multi-token prediction.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        ahead = (
            MtpModule(DecoderLayer(config), width=config.hidden_size, eps=config.rms_norm_eps)
            for _ in range(config.num_nextn_predict_layers)
        )
        self.layers = nn.ModuleList([*(DecoderLayer(config) for _ in range(config.num_hidden_layers)), *ahead])
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class Decoder(nn.Module):
    """A causal language model. ``build_decoder`` makes one with fresh weights, ``load_model`` one from a folder."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = _Trunk(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.rotations = RotationTable(head_dim=config.head_dim, theta=config.rope_theta)
        self.tie()

    def tie(self) -> None:
        """Makes head and embedding one parameter where the config says so; needed again after memory is replaced."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(
        self,
        ids_BT: Tensor,
        positions_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        *,
        branches: Branches | None = None,
    ) -> Tensor:
        """Hidden states ``[B, T, D]`` after the final norm.

        Rows padded on the right need nothing: attention is causal, and what comes out at padding is ignored by the
        caller. ``positions_BT`` defaults to 0, 1, 2, ... ``segments_BT`` numbers the documents packed into each row (a
        run of equal numbers is one document, 0 is padding): a token then sees its own document only, and the caller
        gives positions that start again with each document. ``branches`` says that the one row holds prompts and
        several continuations of each; positions follow from it.
        """
        x_BTD = self.model.embed_tokens(ids_BT)
        return self._run_body(x_BTD, *self._plan(x_BTD, positions_BT, segments_BT, branches))

    def forward_ahead(
        self, ids_BT: Tensor, next_BT: Tensor, positions_BT: Tensor | None = None, segments_BT: Tensor | None = None
    ) -> list[Tensor]:
        """What ``forward`` gives, then ``[B, T, D]`` of each module of multi-token prediction, ready for the head.

        ``next_BT`` is the token that follows each of ``ids_BT`` in its document: what the places predict, in training.
        """
        x_BTD = self.model.embed_tokens(ids_BT)
        rotation, attend = self._plan(x_BTD, positions_BT, segments_BT, None)
        hidden_BTD = self._run_body(x_BTD, rotation, attend)
        modules = self.modules_ahead()
        return [hidden_BTD, *look_ahead(modules, self.model.embed_tokens, hidden_BTD, next_BT, rotation, attend)]

    def modules_ahead(self) -> nn.ModuleList:
        """The modules of multi-token prediction."""
        return nn.ModuleList(islice(self.model.layers, self.config.num_hidden_layers, None))

    def _plan(
        self, x_BTD: Tensor, positions_BT: Tensor | None, segments_BT: Tensor | None, branches: Branches | None
    ) -> tuple[Rotation, Attend]:
        B, T = x_BTD.shape[:2]
        if branches is not None:
            positions_BT = torch.tensor([branches.positions()], device=x_BTD.device)
        if positions_BT is None:
            rotation = self.rotations.first(T, dtype=x_BTD.dtype, device=x_BTD.device)
        else:
            rotation = self.rotations.at(positions_BT, dtype=x_BTD.dtype)
        group = self.config.num_attention_heads // self.config.num_key_value_heads
        if branches is not None:
            return rotation, plan_branches(x_BTD, branches, group=group)
        return rotation, plan_attention(x_BTD, rows=B, tokens=T, group=group, segments_BT=segments_BT)

    def _run_body(self, x_BTD: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        for layer in islice(self.model.layers, self.config.num_hidden_layers):
            x_BTD = layer(x_BTD, rotation, attend)
        return cast(Tensor, self.model.norm(x_BTD))

    @property
    def head_weight(self) -> Tensor:
        """The output head, ``[V, D]``; the embedding itself when tied."""
        return self.lm_head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits ``[..., V]`` of hidden states ``[..., D]``."""
        return F.linear(hidden, self.lm_head.weight)


def build_empty_decoder(
    config: ModelConfig, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Decoder:
    """A decoder whose weights are uninitialised memory (none at all on ``device="meta"``); draws no random number."""
    with torch.device("meta"):
        decoder = Decoder(config).to(dtype)
    if torch.device(device).type != "meta":
        decoder.to_empty(device=device)
        decoder.tie()
    return decoder


def build_decoder(config: ModelConfig, *, seed: int, dtype: torch.dtype = torch.float32) -> Decoder:
    """A decoder with fresh weights, the same for the same seed whatever the global random state.

    Matrices are normal with standard deviation ``1 / sqrt(inputs)``, those that write into the residual stream
    smaller by ``sqrt(2 * num_hidden_layers)`` (Radford et al. 2019, section 2.3); norms are 1, biases 0. The usual
    fixed 0.02 suits widths near 2,500; at width 128 it starts attention and logits so flat that training needs a
    quarter more steps.
    """
    decoder = build_empty_decoder(config, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                std = parameter.shape[1] ** -0.5 / (math.sqrt(2 * config.num_hidden_layers) if deep else 1.0)
                parameter.copy_(torch.randn(parameter.shape, generator=generator).mul_(std))
    return decoder
