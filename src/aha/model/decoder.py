"""The decoder: one plain module tree for every kind of model, with Hugging Face's parameter names.

Axes: ``B`` sequences, ``T`` tokens, ``V`` vocabulary, ``D`` width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aha.errors import DataError
from aha.model.attention.gqa import GroupedQueryAttention
from aha.model.attention.mla import MultiHeadLatentAttention
from aha.model.attention.plan import Attend, Branches, longest_sequence, plan_attention, plan_branches
from aha.model.config import ModelConfig
from aha.model.embedding import build_embedding
from aha.model.feedforward import DenseFeedForward
from aha.model.moe import Experts, MixtureOfExperts
from aha.model.mtp import MtpModule, look_ahead
from aha.model.norm import RMSNorm
from aha.model.rope import Rotation, RotationTable


class DecoderLayer(nn.Module):
    """Pre-norm attention and feed-forward, each added to the residual stream."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.self_attn = MultiHeadLatentAttention(config) if config.latent_attention else GroupedQueryAttention(config)
        self.mlp = (
            MixtureOfExperts(config)
            if config.has_experts(index)
            else DenseFeedForward(config.hidden_size, config.intermediate_size)
        )
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, x_BTD: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        read_BTD = self.self_attn(self.input_layernorm(x_BTD), rotation, attend)
        x_BTD, normed_BTD = self.post_attention_layernorm.add(x_BTD, read_BTD)
        return cast(Tensor, x_BTD + self.mlp(normed_BTD))


class _Trunk(nn.Module):
    """What Hugging Face calls ``model``: embedding, layers, final norm. Only a holder of parameter names.

    Behind the layers, in the same list as published, stand the modules of multi-token prediction.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        # A table of one's own is not filled: that, on "meta", imports torch's compiler (2 seconds, 70 MB).
        table = torch.empty(config.vocab_size, config.hidden_size)
        self.embed_tokens = build_embedding(table, tied=config.tie_word_embeddings)
        layers, ahead = config.num_hidden_layers, config.num_nextn_predict_layers
        modules = (
            MtpModule(DecoderLayer(config, layers + k), width=config.hidden_size, eps=config.rms_norm_eps)
            for k in range(ahead)
        )
        self.layers = nn.ModuleList([*(DecoderLayer(config, index) for index in range(layers)), *modules])
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class Decoder(nn.Module):
    """A causal language model. ``build_decoder`` makes one with fresh weights, ``load_model`` one from a folder."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = _Trunk(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.rotations = RotationTable(
            head_dim=config.head_dim, theta=config.rope_theta, scaling=config.rope_scaling
        )
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

    def residuals(self, ids_BT: Tensor, depths: Sequence[int], *, branches: Branches | None = None) -> list[Tensor]:
        """The residual stream ``[B, T, D]`` behind the first so many layers of the body, for each of ``depths`` from
        the least on, before any norm; layers above the last are not computed."""
        x_BTD = self.model.embed_tokens(ids_BT)
        rotation, attend = self._plan(x_BTD, None, None, branches)
        found = []
        for below, depth in pairwise((0, *depths)):
            for layer in islice(self.model.layers, below, depth):
                x_BTD = layer(x_BTD, rotation, attend)
            found.append(x_BTD)
        return found

    def body_layers(self) -> nn.ModuleList:
        """The layers of the main model."""
        return nn.ModuleList(islice(self.model.layers, self.config.num_hidden_layers))

    def modules_ahead(self) -> nn.ModuleList:
        """The modules of multi-token prediction."""
        return nn.ModuleList(islice(self.model.layers, self.config.num_hidden_layers, None))

    def _plan(
        self, x_BTD: Tensor, positions_BT: Tensor | None, segments_BT: Tensor | None, branches: Branches | None
    ) -> tuple[Rotation, Attend]:
        B, T = x_BTD.shape[:2]
        if self.config.sliding_window is not None:
            check_window(self.config, longest_sequence(T, segments_BT, branches))
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


def check_window(config: ModelConfig, tokens: int) -> None:
    """``DataError`` where a sequence is longer than the model's attention looks back."""
    if config.sliding_window is not None and config.sliding_window < tokens:
        raise DataError(
            f"a sequence of {tokens} tokens, but the model's sliding_window is {config.sliding_window}: attention that "
            "forgets is not supported, use shorter ones"
        )


def build_empty_decoder(
    config: ModelConfig, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Decoder:
    """A decoder whose weights are uninitialised memory (none at all on ``device="meta"``); draws no random number."""
    with torch.device("meta"):
        decoder = Decoder(config).to(dtype)
    if torch.device(device).type != "meta":
        # Not `to_empty`: its `empty_like` on "meta" imports sympy (480 modules, 33 MiB).
        decoder._apply(lambda meta: torch.empty(meta.shape, dtype=meta.dtype, device=device))  # type: ignore[no-untyped-call]
        decoder.tie()
    return decoder


def first_layers(decoder: Decoder, depth: int) -> Decoder:
    """The decoder's first ``depth`` layers, its tensors shared, behind them a norm whose weights are 1."""
    config = decoder.config.model_copy(update={"num_hidden_layers": depth, "num_nextn_predict_layers": 0})
    short = build_empty_decoder(config, device="meta")
    tensors = decoder.state_dict()
    tensors["model.norm.weight"] = torch.ones_like(tensors["model.norm.weight"])
    short.load_state_dict({name: tensors[name] for name in short.state_dict()}, assign=True)
    short.tie()
    return short


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
                deep = name.endswith(("o_proj.weight", "down_proj.weight", "experts.down_proj"))
                std = parameter.shape[-1] ** -0.5 / (math.sqrt(2 * config.num_hidden_layers) if deep else 1.0)
                parameter.copy_(torch.randn(parameter.shape, generator=generator).mul_(std))
        for buffer in decoder.buffers():
            buffer.zero_()
    return decoder


def published_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of ``module`` under the name it has on disk, detached: a view, so that filling it fills the module.

    In memory the experts of a layer are one tensor, on disk each has three of its own. A tied head is listed, too.
    """
    experts = {f"{name}.": part for name, part in module.named_modules() if isinstance(part, Experts)}
    for name, tensor in module.state_dict().items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            yield name, tensor
    for prefix, part in experts.items():
        for index, (gate_up, down) in enumerate(zip(part.gate_up_proj.detach(), part.down_proj.detach(), strict=True)):
            gate, up = gate_up.chunk(2)
            yield f"{prefix}{index}.gate_proj.weight", gate
            yield f"{prefix}{index}.up_proj.weight", up
            yield f"{prefix}{index}.down_proj.weight", down
