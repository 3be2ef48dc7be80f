"""The sampler's own copy of the weights as the compiled kernels read them, and the way back for the digest.

D width, V vocabulary, N query heads, K key/value heads, H head width. A matrix [out, in] is packed into panels:
``[ceil(out / NR), words, NR]``, words of 32 bits, each one float32 or two neighbouring bfloat16 of a row. In int8 a
word has four numbers, each 128 more than it is, and one word more has the outputs' steps.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aha.model.config import ModelConfig
from aha.rollout.native.int8 import STEP, quantise, rest_of
from aha.rollout.native.kernels import Kernels, LayerPointers, ModelPointers, address
from aha.rollout.native.source import Source
from aha.rollout.native.weights import digest_of

_PARTS = ("q", "k", "v")
_BLOCK_PANELS = 64


def is_packable(config: ModelConfig, dtype: torch.dtype) -> bool:
    """Whether the kernels know the architecture: grouped-query attention, dense feed-forward; in bfloat16 pairs."""
    plain = not config.latent_attention and config.n_routed_experts == 0
    pairs = dtype != torch.bfloat16 or config.hidden_size % 2 == config.intermediate_size % 2 == 0
    return plain and pairs and dtype in (torch.float32, torch.bfloat16, torch.int8)


def pack(matrix_OI: Tensor, into: Tensor) -> None:
    """Writes a matrix into panels; what its last panel has too many is 0."""
    panels, words, width = into.shape
    rows = matrix_OI.view(torch.int32)
    full, rest = divmod(len(rows), width)
    into[:full].copy_(rows[: full * width].view(full, width, words).transpose(1, 2))
    if rest:
        into[full].zero_()
        into[full, :, :rest] = rows[full * width :].t()


def unpack(panels: Tensor, num_rows: int, dtype: torch.dtype) -> Tensor:
    """The matrix that was packed."""
    turned = panels.transpose(1, 2).clone(memory_format=torch.contiguous_format)
    return turned.view(-1, panels.shape[1])[:num_rows].view(dtype)


def pack_int8(numbers_OI: Tensor, step_O: Tensor, into: Tensor) -> None:
    """Writes an int8 matrix and its steps into panels."""
    raised = F.pad(numbers_OI, (0, -numbers_OI.shape[1] % 4)).view(torch.uint8) + 128  # it wraps: -1 is 127
    pack(raised, into[:, :-1])
    pack(step_O[:, None], into[:, -1:])


def unpack_int8(panels: Tensor, num_rows: int, num_columns: int) -> tuple[Tensor, Tensor]:
    """The matrix that was packed, and its steps."""
    raised = unpack(panels[:, :-1], num_rows, torch.uint8)[:, :num_columns]
    return (raised + 128).view(torch.int8), unpack(panels[:, -1:], num_rows, torch.float32)[:, 0]


class PackedWeights:
    """Storage for one version of the weights, allocated once; ``copy_from`` fills it."""

    def __init__(self, config: ModelConfig, kernels: Kernels, *, dtype: torch.dtype) -> None:
        assert is_packable(config, dtype)
        self._config, self._lanes, self._panel = config, kernels.lanes, kernels.panel
        self._dtype, self._rest = dtype, rest_of(dtype)
        V, D, H = config.vocab_size, config.hidden_size, config.head_dim
        N, K = config.num_attention_heads, config.num_key_value_heads
        self._rows = dict(zip(_PARTS, (N * H, K * H, K * H), strict=True))
        self._embedding = self._empty(V, D)
        self._head = self._embedding if config.tie_word_embeddings else self._empty(V, D)
        self.norm_D = torch.empty(D)
        self._layers = [self._empty_layer() for _ in range(config.num_hidden_layers)]

    @torch.no_grad()
    def copy_from(self, decoder: nn.Module) -> None:
        """Overwrites every weight. Raises ``CheckpointError`` for a tensor of the decoder that is missing or misfit."""
        source, config = Source(decoder), self._config
        V, D, width = config.vocab_size, config.hidden_size, config.intermediate_size

        is_int8 = self._dtype == torch.int8

        def matrix(name: str, rows: int, columns: int) -> Tensor:
            found = source.find(name, (rows, columns)).to("cpu")
            return found if is_int8 else found.to(self._dtype).contiguous()

        def put(matrix_OI: Tensor, into: Tensor) -> None:
            if is_int8:
                pack_int8(*quantise(matrix_OI), into)
            else:
                pack(matrix_OI, into)

        def vector(name: str, into: Tensor) -> None:
            into.copy_(source.find(name, into.shape).to(self._rest))

        put(matrix("model.embed_tokens.weight", V, D), self._embedding)
        if not config.tie_word_embeddings:
            put(matrix("lm_head.weight", V, D), self._head)
        vector("model.norm.weight", self.norm_D)
        for index, layer in enumerate(self._layers):
            at = f"model.layers.{index}."
            for name, into in self._vectors(at, layer):
                vector(name, into)
            parts = [matrix(f"{at}self_attn.{part}_proj.weight", rows, D) for part, rows in self._rows.items()]
            put(torch.cat(parts), layer["qkv"])
            put(matrix(at + "self_attn.o_proj.weight", D, self._rows["q"]), layer["out"])
            gate_up = [matrix(f"{at}mlp.{part}_proj.weight", width, D) for part in ("gate", "up")]
            # In a panel VL gates stand before their VL ups.
            spare = -width % self._lanes
            sides = [F.pad(side, (0, 0, 0, spare)).view(-1, self._lanes, D) for side in gate_up]
            put(torch.stack(sides, 1).view(-1, D), layer["gate_up"])
            put(matrix(at + "mlp.down_proj.weight", D, width), layer["down"])

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight under the decoder's name, in the decoder's layout, read back from the packed storage; the
        largest in blocks of rows."""
        config = self._config
        V, D, width = config.vocab_size, config.hidden_size, config.intermediate_size
        wide = {"model.embed_tokens.weight": self._embedding, "lm_head.weight": self._head}
        for name, panels in islice(wide.items(), 1 if config.tie_word_embeddings else 2):
            at_once = len(panels) if self._dtype == torch.int8 else _BLOCK_PANELS  # a block's steps have another name
            for first in range(0, len(panels), at_once):
                left = V - first * self._panel
                block = self._unpack(panels[first : first + at_once], min(at_once * self._panel, left), D)
                yield from ((name + of, matrix) for of, matrix in block)
        yield "model.norm.weight", self.norm_D
        for index, layer in enumerate(self._layers):
            at = f"model.layers.{index}."
            yield from self._vectors(at, layer)
            for of, whole in self._unpack(layer["qkv"], sum(self._rows.values()), D):
                for part, matrix in zip(_PARTS, torch.split(whole, list(self._rows.values())), strict=True):
                    yield f"{at}self_attn.{part}_proj.weight{of}", matrix
            for of, matrix in self._unpack(layer["out"], D, self._rows["q"]):
                yield f"{at}self_attn.o_proj.weight{of}", matrix
            for of, whole in self._unpack(layer["gate_up"], len(layer["gate_up"]) * self._panel, D):
                sides = whole.view(-1, 2, self._lanes, *whole.shape[1:])
                for side, part in enumerate(("gate", "up")):
                    yield f"{at}mlp.{part}_proj.weight{of}", sides[:, side].flatten(0, 1)[:width]
            for of, matrix in self._unpack(layer["down"], D, width):
                yield f"{at}mlp.down_proj.weight{of}", matrix

    def digest(self) -> str:
        """Equals ``decoder_digest`` of the decoder that was copied, read with this storage's dtype."""
        return digest_of(self.named(), self._dtype)

    def point(self, model: ModelPointers) -> None:
        """Writes into ``model`` its sizes and where the weights lie; they stay there as long as this object lives."""
        config = self._config
        layers = (LayerPointers * len(self._layers))()
        for pointers, tensors in zip(layers, self._layers, strict=True):
            for name, tensor in tensors.items():
                setattr(pointers, name, address(tensor))
        model.half, model.int8 = int(self._rest == torch.bfloat16), int(self._dtype == torch.int8)
        model.layers, model.eps = len(layers), config.rms_norm_eps
        model.D, model.V, model.F = config.hidden_size, config.vocab_size, config.intermediate_size
        model.N, model.K, model.H = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        model.embedding, model.norm, model.head = map(address, (self._embedding, self.norm_D, self._head))
        model.layer = ctypes.cast(layers, ctypes.POINTER(LayerPointers))

    def _empty(self, num_rows: int, num_columns: int) -> Tensor:
        words = -(-num_columns * self._dtype.itemsize // 4) + (self._dtype == torch.int8)
        return torch.empty(-(-num_rows // self._panel), words, self._panel, dtype=torch.int32)

    def _unpack(self, panels: Tensor, num_rows: int, num_columns: int) -> list[tuple[str, Tensor]]:
        """The matrix, or numbers and steps, each with what its name has more."""
        if self._dtype == torch.int8:
            return list(zip(("", STEP), unpack_int8(panels, num_rows, num_columns), strict=True))
        return [("", unpack(panels, num_rows, self._dtype))]

    def _empty_layer(self) -> dict[str, Tensor]:
        config, rows = self._config, sum(self._rows.values())
        D, width, H = config.hidden_size, config.intermediate_size, config.head_dim
        layer = {
            "norm": torch.empty(D),
            "feed_norm": torch.empty(D),
            "qkv": self._empty(rows, D),
            "out": self._empty(D, self._rows["q"]),
            "gate_up": self._empty(2 * (width + -width % self._lanes), D),
            "down": self._empty(D, width),
        }
        if config.qkv_bias:
            layer["qkv_bias"] = torch.empty(rows)
        if config.o_bias:
            layer["out_bias"] = torch.empty(D)
        if config.qk_norm:
            layer |= {"query_norm": torch.empty(H), "key_norm": torch.empty(H)}
        return layer

    def _vectors(self, at: str, layer: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """A layer's norms and biases, in float32 whatever the dtype, under their published names."""
        yield at + "input_layernorm.weight", layer["norm"]
        yield at + "post_attention_layernorm.weight", layer["feed_norm"]
        if self._config.qkv_bias:
            parts = torch.split(layer["qkv_bias"], list(self._rows.values()))
            yield from zip((f"{at}self_attn.{part}_proj.bias" for part in _PARTS), parts, strict=True)
        if self._config.o_bias:
            yield at + "self_attn.o_proj.bias", layer["out_bias"]
        if self._config.qk_norm:
            yield at + "self_attn.q_norm.weight", layer["query_norm"]
            yield at + "self_attn.k_norm.weight", layer["key_norm"]
