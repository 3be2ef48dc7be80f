"""The sampler's own copy of the weights, fused for decoding, and the digest that proves it equals the trainer's.

D width, N query heads, K key/value heads, H head width, F feed-forward width, V vocabulary. Matrices are stored
transposed (``[in, out]``), which is faster for few rows. Query, key and value projections are one matrix, gate and up
another. In the query and key heads the two halves that rotation pairs are interleaved, so that rotating is one complex
product; attention does not see a permutation that queries and keys share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aha.errors import CheckpointError
from aha.model.config import ModelConfig

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer; ``None`` where the architecture has no such weight."""

    attention_norm_D: Tensor
    qkv: Tensor  # [D, (N + 2K) H]
    qkv_bias: Tensor | None
    qk_norm: Tensor | None  # [N + K, H]: the query norm's weight N times, the key norm's K times
    out: Tensor  # [N H, D]
    out_bias: Tensor | None
    feed_norm_D: Tensor
    gate_up: Tensor  # [D, 2F]
    down: Tensor  # [F, D]


@dataclass(frozen=True, slots=True)
class ModuleWeights:
    """One module of multi-token prediction: its layer and what stands around it (model/mtp.py)."""

    embedding_norm_D: Tensor
    hidden_norm_D: Tensor
    join: Tensor  # [2D, D]
    layer: LayerWeights
    norm_D: Tensor


class Weights:
    """Storage for one version of the weights, allocated once; ``copy_from`` fills it.

    Of the modules of multi-token prediction it has the first ``ahead``.
    """

    def __init__(self, config: ModelConfig, *, dtype: torch.dtype, device: torch.device, ahead: int = 0) -> None:
        self._config = config
        D, F, H = config.hidden_size, config.intermediate_size, config.head_dim
        N, K = config.num_attention_heads, config.num_key_value_heads

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        self.embedding_VD = empty(config.vocab_size, D)
        self.head_VD = self.embedding_VD if config.tie_word_embeddings else empty(config.vocab_size, D)
        self.norm_D = empty(D)

        def layer() -> LayerWeights:
            return LayerWeights(
                attention_norm_D=empty(D),
                qkv=empty(D, (N + 2 * K) * H),
                qkv_bias=empty((N + 2 * K) * H) if config.qkv_bias else None,
                qk_norm=empty(N + K, H) if config.qk_norm else None,
                out=empty(N * H, D),
                out_bias=empty(D) if config.o_bias else None,
                feed_norm_D=empty(D),
                gate_up=empty(D, 2 * F),
                down=empty(F, D),
            )

        self.layers = [layer() for _ in range(config.num_hidden_layers)]
        self.modules = [
            ModuleWeights(
                embedding_norm_D=empty(D), hidden_norm_D=empty(D), join=empty(2 * D, D), layer=layer(), norm_D=empty(D)
            )
            for _ in range(ahead)
        ]
        self._interleave = torch.arange(H).view(2, H // 2).t().flatten()
        self._halves = torch.argsort(self._interleave)

    @torch.no_grad()
    def copy_from(self, decoder: nn.Module) -> None:
        """Overwrites every weight. Raises ``CheckpointError`` for a tensor of the decoder that is missing or misfit."""
        source = _Source(decoder)
        config = self._config
        N, K, H = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        parts = [N * H, K * H, K * H]
        source.copy("model.embed_tokens.weight", self.embedding_VD)
        if not config.tie_word_embeddings:
            source.copy("lm_head.weight", self.head_VD)
        source.copy("model.norm.weight", self.norm_D)
        for index, module in enumerate(self.modules, start=len(self.layers)):
            for name, weight in _around_layer(module, index):
                source.copy(name, weight)
        for index, layer in enumerate(self._all_layers()):
            at = f"model.layers.{index}."
            source.copy(at + "input_layernorm.weight", layer.attention_norm_D)
            source.copy(at + "post_attention_layernorm.weight", layer.feed_norm_D)
            for part, heads, into in zip("qkv", (N, K, K), torch.split(layer.qkv, parts, 1), strict=True):
                name = f"{at}self_attn.{part}_proj.weight"
                source.copy(name, into.t(), self._rows(heads, interleaved=part != "v"))
            if layer.qkv_bias is not None:
                for part, heads, into in zip("qkv", (N, K, K), torch.split(layer.qkv_bias, parts), strict=True):
                    name = f"{at}self_attn.{part}_proj.bias"
                    source.copy(name, into, self._rows(heads, interleaved=part != "v"))
            if layer.qk_norm is not None:
                for part, into in zip("qk", torch.split(layer.qk_norm, [N, K]), strict=True):
                    source.copy(f"{at}self_attn.{part}_norm.weight", into[0], self._interleave)
                    into.copy_(into[0].clone().expand_as(into))
            source.copy(at + "self_attn.o_proj.weight", layer.out.t())
            if layer.out_bias is not None:
                source.copy(at + "self_attn.o_proj.bias", layer.out_bias)
            for part, into in zip(("gate", "up"), layer.gate_up.chunk(2, 1), strict=True):
                source.copy(f"{at}mlp.{part}_proj.weight", into.t())
            source.copy(at + "mlp.down_proj.weight", layer.down.t())

    def named(self) -> Iterable[tuple[str, Tensor]]:
        """Every weight under its published name, in its published layout, read back from the fused storage."""
        config = self._config
        N, K, H = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        parts = [N * H, K * H, K * H]
        yield "model.embed_tokens.weight", self.embedding_VD
        if not config.tie_word_embeddings:
            yield "lm_head.weight", self.head_VD
        yield "model.norm.weight", self.norm_D
        for index, module in enumerate(self.modules, start=len(self.layers)):
            yield from _around_layer(module, index)
        for index, layer in enumerate(self._all_layers()):
            at = f"model.layers.{index}."
            yield at + "input_layernorm.weight", layer.attention_norm_D
            yield at + "post_attention_layernorm.weight", layer.feed_norm_D
            for part, heads, fused in zip("qkv", (N, K, K), torch.split(layer.qkv, parts, 1), strict=True):
                yield f"{at}self_attn.{part}_proj.weight", fused.t()[self._rows(heads, halved=part != "v")]
            if layer.qkv_bias is not None:
                for part, heads, fused in zip("qkv", (N, K, K), torch.split(layer.qkv_bias, parts), strict=True):
                    yield f"{at}self_attn.{part}_proj.bias", fused[self._rows(heads, halved=part != "v")]
            if layer.qk_norm is not None:
                for part, fused in zip("qk", torch.split(layer.qk_norm, [N, K]), strict=True):
                    yield f"{at}self_attn.{part}_norm.weight", fused[0][self._halves]
            yield at + "self_attn.o_proj.weight", layer.out.t()
            if layer.out_bias is not None:
                yield at + "self_attn.o_proj.bias", layer.out_bias
            for part, fused in zip(("gate", "up"), layer.gate_up.chunk(2, 1), strict=True):
                yield f"{at}mlp.{part}_proj.weight", fused.t()
            yield at + "mlp.down_proj.weight", layer.down.t()

    def digest(self) -> str:
        """Equals ``decoder_digest`` of the decoder that was copied, read with this storage's dtype and ``ahead``."""
        return _digest(self.named(), self.norm_D.dtype)

    def _all_layers(self) -> list[LayerWeights]:
        """The body's, then those of the modules, as the published names number them."""
        return [*self.layers, *(module.layer for module in self.modules)]

    def _rows(self, heads: int, *, interleaved: bool = False, halved: bool = False) -> Tensor:
        order = self._interleave if interleaved else self._halves if halved else torch.arange(len(self._halves))
        return (torch.arange(heads)[:, None] * len(order) + order).flatten()


def _around_layer(module: ModuleWeights, index: int) -> Iterable[tuple[str, Tensor]]:
    at = f"model.layers.{index}."
    yield at + "enorm.weight", module.embedding_norm_D
    yield at + "hnorm.weight", module.hidden_norm_D
    yield at + "eh_proj.weight", module.join.t()
    yield at + "shared_head.norm.weight", module.norm_D


def decoder_digest(
    decoder: nn.Module, config: ModelConfig, *, dtype: torch.dtype = torch.float32, ahead: int = 0
) -> str:
    """32 hexadecimal digits that stand for every weight of ``decoder`` as it reads in ``dtype``, on any device.

    Of the modules of multi-token prediction only the first ``ahead`` count: a sampler has those it drafts with. A
    change of one bit, or two values changing places, changes it (two 64-bit checksums a tensor, then SHA-256).
    """
    parameters = dict(decoder.named_parameters())
    if config.tie_word_embeddings:
        parameters.pop("lm_head.weight", None)
    for index in range(config.num_hidden_layers + ahead, config.num_hidden_layers + config.num_nextn_predict_layers):
        unused = f"model.layers.{index}."
        parameters = {name: weight for name, weight in parameters.items() if not name.startswith(unused)}
    return _digest(parameters.items(), dtype)


def _digest(named: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> str:
    # Sums of integers do not depend on the order of summation, so every device gives the same.
    lines = []
    with torch.no_grad():
        for name, tensor in named:
            bits = tensor.detach().to(dtype).contiguous().view(-1).view(_BITS[dtype.itemsize])
            plain = weighted = torch.zeros((), dtype=torch.int64, device=bits.device)
            for start in range(0, len(bits), _CHUNK):
                chunk = bits[start : start + _CHUNK].to(torch.int64)
                place = torch.arange(start, start + len(chunk), device=bits.device).mul_(2).add_(1)
                plain = plain + chunk.sum()
                weighted = weighted + (chunk * chunk * place + chunk * place).sum()
            lines.append(f"{name} {tuple(tensor.shape)} {int(plain)} {int(weighted)}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:32]


_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class _Source:
    """The decoder's parameters by name, with errors that say which tensor does not fit."""

    def __init__(self, decoder: nn.Module) -> None:
        self._tensors: Mapping[str, Tensor] = dict(decoder.named_parameters())

    def copy(self, name: str, into: Tensor, rows: Tensor | None = None) -> None:
        if name not in self._tensors:
            raise CheckpointError(f"decoder has no {name}, which the sampler's config has: build both from one config")
        tensor = self._tensors[name].detach()
        if tensor.shape != into.shape:
            raise CheckpointError(
                f"{name} is {tuple(tensor.shape)} in the decoder but {tuple(into.shape)} by the sampler's config: "
                f"build both from one config"
            )
        into.copy_(tensor if rows is None else tensor[rows.to(tensor.device)])
