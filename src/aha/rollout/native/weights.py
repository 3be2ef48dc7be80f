"""The sampler's own copy of the weights, fused for decoding, and the digest that proves it equals the trainer's.

D width, V vocabulary. How a layer's two halves are fused stands in ``gqa.py``, ``mla.py`` and ``feed.py``.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor, nn

from aha.model import kernels
from aha.model.config import ModelConfig
from aha.model.moe import ROUTER_BIAS
from aha.model.product import is_widened
from aha.rollout.native.feed import Dense, Mixture
from aha.rollout.native.gqa import GroupedQuery
from aha.rollout.native.int8 import STEP, as_int8, rest_of
from aha.rollout.native.matrix import PANEL, Floats, Int8, Matrix, Panels, floats
from aha.rollout.native.memory import DIGEST_CHUNK, GPU_DIGEST_CHUNK
from aha.rollout.native.mla import Latent
from aha.rollout.native.norm import Norm
from aha.rollout.native.source import Source


def kept_type(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """In what a sampler of ``dtype`` keeps and computes what is not in int8: BF16 in float32, where a processor
    multiplies none."""
    return torch.float32 if is_widened(dtype, device) else rest_of(dtype)


class Layer(NamedTuple):
    """One layer's two halves."""

    attention: GroupedQuery | Latent
    feed: Dense | Mixture


class Module(NamedTuple):
    """One module of multi-token prediction: its layer and what stands around it (model/mtp.py)."""

    embedding_norm: Norm
    hidden_norm: Norm
    join: Floats | Panels  # [D, 2D]
    layer: Layer
    norm: Norm


class Weights:
    """Storage for one version of the weights, allocated once; ``copy_from`` fills it.

    Of the modules of multi-token prediction it has the first ``ahead``. They are kept as :func:`kept_type` says.
    """

    def __init__(self, config: ModelConfig, *, dtype: torch.dtype, device: torch.device, ahead: int = 0) -> None:
        self._config = config
        V, D = config.vocab_size, config.hidden_size

        self._dtype, kept = dtype, kept_type(dtype, device)
        self._rounded = dtype if kept != rest_of(dtype) else None

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=kept, device=device)

        def matrix(O: int, I: int, *, width: int = PANEL) -> Matrix:  # noqa: E741
            return Int8(O, I, width=width) if dtype == torch.int8 else floats(O, I, empty, width=width)

        self.embedding = Int8(V, D) if dtype == torch.int8 else Floats(V, D, empty, plain=True)
        self.head = self.embedding if config.tie_word_embeddings else matrix(V, D)
        def norm() -> Norm:
            return Norm(D, config.rms_norm_eps, empty)

        self.norm = norm()

        def layer(index: int) -> Layer:
            return Layer(
                Latent(config, empty) if config.latent_attention else GroupedQuery(config, empty, matrix),
                Mixture(config, empty) if config.has_experts(index) else Dense(config, empty, matrix),
            )

        self.layers = [layer(index) for index in range(config.num_hidden_layers)]
        self.modules = [
            Module(norm(), norm(), floats(D, 2 * D, empty), layer(config.num_hidden_layers + k), norm())
            for k in range(ahead)
        ]

        self.are_by_panels = all(
            isinstance(layer.attention, GroupedQuery)
            and isinstance(layer.feed, Dense)
            and layer.attention.is_by_panels
            and layer.feed.is_by_panels
            for layer in self.layers
        )

    @torch.no_grad()
    def copy_from(self, decoder: nn.Module) -> None:
        """Overwrites every weight. Raises ``CheckpointError`` for a tensor of the decoder that is missing or misfit."""
        source = Source(decoder, rounded=self._rounded)
        with self.embedding.rewrite() as plain:
            source.copy("model.embed_tokens.weight", plain)
        if self._config.tie_word_embeddings:
            self.head = self.embedding.as_head()
        else:
            with self.head.rewrite() as plain:
                source.copy("lm_head.weight", plain)
        with self.norm.rewrite() as plain:
            source.copy("model.norm.weight", plain)
        for index, module in enumerate(self.modules, start=len(self.layers)):
            for name, norm in _norms_around(module, index):
                with norm.rewrite() as plain:
                    source.copy(name, plain)
            with module.join.rewrite() as plain:
                source.copy(f"model.layers.{index}.eh_proj.weight", plain)
        for index, layer in enumerate(self._all_layers()):
            for half in layer:
                half.copy_from(source, f"model.layers.{index}.")

    def named(self) -> Iterable[tuple[str, Tensor]]:
        """Every weight under the decoder's name, in the decoder's layout, read back from the fused storage."""
        yield from _named("model.embed_tokens.weight", self.embedding)
        if not self._config.tie_word_embeddings:
            yield from _named("lm_head.weight", self.head)
        yield "model.norm.weight", self.norm.weight_D
        for index, module in enumerate(self.modules, start=len(self.layers)):
            yield from ((name, norm.weight_D) for name, norm in _norms_around(module, index))
            yield f"model.layers.{index}.eh_proj.weight", module.join.plain()
        for index, layer in enumerate(self._all_layers()):
            for half in layer:
                yield from half.named(f"model.layers.{index}.")

    def digest(self) -> str:
        """Equals ``decoder_digest`` of the decoder that was copied, read with this storage's dtype and ``ahead``."""
        return digest_of(self.named(), self._dtype)

    def _all_layers(self) -> list[Layer]:
        """The body's, then those of the modules, as the published names number them."""
        return [*self.layers, *(module.layer for module in self.modules)]


def _named(name: str, matrix: Matrix) -> Iterator[tuple[str, Tensor]]:
    return ((name + suffix, whole) for suffix, whole in matrix.read())


def _norms_around(module: Module, index: int) -> Iterator[tuple[str, Norm]]:
    at = f"model.layers.{index}."
    yield at + "enorm.weight", module.embedding_norm
    yield at + "hnorm.weight", module.hidden_norm
    yield at + "shared_head.norm.weight", module.norm


def decoder_digest(
    decoder: nn.Module, config: ModelConfig, *, dtype: torch.dtype = torch.float32, ahead: int = 0
) -> str:
    """32 hexadecimal digits that stand for every weight of ``decoder`` as it reads in ``dtype``, on any device.

    Of the modules of multi-token prediction only the first ``ahead`` count: a sampler has those it drafts with. A
    change of one bit, or two values changing places, changes it (two 64-bit checksums a tensor, then SHA-256).
    """
    parameters = dict(decoder.named_parameters()) | dict(decoder.named_buffers())
    if config.tie_word_embeddings:
        parameters.pop("lm_head.weight", None)
    for index in range(config.num_hidden_layers + ahead, config.num_hidden_layers + config.num_nextn_predict_layers):
        unused = f"model.layers.{index}."
        parameters = {name: weight for name, weight in parameters.items() if not name.startswith(unused)}
    return digest_of(as_int8(parameters.items()) if dtype == torch.int8 else parameters.items(), dtype)


def digest_of(named: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> str:
    """The digest of named weights as they read in ``dtype`` (``int8``: those that are in it are), see
    ``decoder_digest``. A tensor may come in blocks of its rows, one after the other under the same name."""
    # Sums of integers do not depend on the order of summation, so every device gives the same.
    lines = []
    with torch.no_grad():
        for name, blocks in itertools.groupby(named, key=itemgetter(0)):
            sums_2, numbers, rows, rest = torch.zeros(2, dtype=torch.int64), 0, 0, torch.Size()
            for _, block in blocks:
                if block.dtype != torch.int8 and not name.endswith((ROUTER_BIAS, STEP)):  # in float32 in any model
                    block = block.to(rest_of(dtype))
                _add_sums(sums_2, block.detach().contiguous(), numbers)
                numbers, rows, rest = numbers + block.numel(), rows + len(block), block.shape[1:]
            plain, weighted = sums_2.tolist()
            lines.append(f"{name} {(rows, *rest)} {plain} {weighted}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:32]


def _add_sums(sums_2: Tensor, tensor: Tensor, before: int) -> None:
    """``model.kernels.sum_bits``, on any device and of any type."""
    if kernels.usable(tensor):
        kernels.sum_bits(tensor, before, sums_2)
        return
    bits = tensor.view(-1).view(_BITS[tensor.dtype.itemsize])
    found_2 = torch.zeros(2, dtype=torch.int64, device=bits.device)  # read once: asking a GPU takes long
    at_once = DIGEST_CHUNK if bits.is_cpu else GPU_DIGEST_CHUNK
    for start in range(0, len(bits), at_once):
        chunk = bits[start : start + at_once].to(torch.int64)
        place = torch.arange(before + start, before + start + len(chunk), device=bits.device).mul_(2).add_(1)
        found_2 += torch.stack((chunk.sum(), (chunk * chunk * place + chunk * place).sum()))
    sums_2 += found_2.cpu()


_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
