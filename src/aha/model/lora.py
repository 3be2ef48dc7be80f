"""Low-rank adapters (Hu et al. 2021, 2106.09685, equation 3): ``W x + (alpha / rank) B A x`` with ``W`` frozen.

Our own layer rather than peft's: the base weights keep their names, so that states, checkpoints and the sampler see no
difference, and it is forty lines. What is written is peft's format, which its own loader reads (tests/model).

Axes: ``R`` rank, ``K`` inputs, ``N`` outputs of a linear map.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from aha.errors import SettingError, nearest
from aha.model.moe import Experts
from aha.util.files import write_json_atomic

EXPERT_MAPS = ("gate_proj", "up_proj", "down_proj")
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", *EXPERT_MAPS)


class LoraLinear(nn.Module):
    """A linear map whose weight stays as it is, with a low-rank one beside it that is learned."""

    def __init__(self, linear: nn.Linear, *, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.scale = alpha / rank
        bound = 1 / math.sqrt(linear.in_features)  # peft's: kaiming_uniform_ with a = sqrt(5)
        a_RK = (torch.rand(rank, linear.in_features, generator=generator) * 2 - 1) * bound
        self.lora_A = nn.Parameter(a_RK.to(self.weight))
        self.lora_B = nn.Parameter(self.weight.new_zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias) + F.linear(F.linear(x, self.lora_A), self.lora_B) * self.scale


def add_lora(
    decoder: nn.Module, *, rank: int, alpha: float, targets: Sequence[str] = TARGETS, seed: int = 0
) -> None:
    """Freezes the decoder and gives each linear map of its layers that is named in ``targets`` an adapter that begins
    as nothing. ``SettingError`` for a name that no linear map has, and for one that the routed experts' maps have, too:
    they are one tensor and get no adapter, and peft reads an adapter of such a name as theirs."""
    layers = decoder.get_submodule("model.layers")
    linears = {name: module for name, module in layers.named_modules() if isinstance(module, nn.Linear)}
    known = {name.rpartition(".")[2] for name in linears}
    if unknown := [target for target in targets if target not in known]:
        raise SettingError(f"no linear map of the model is called {unknown[0]!r}: {nearest(unknown[0], known)}")
    routed = [target for target in targets if target in EXPERT_MAPS]
    if routed and any(isinstance(module, Experts) for module in layers.modules()):
        others = sorted(known.difference(EXPERT_MAPS))
        raise SettingError(f"lora targets {routed} with routed experts, which have no adapters: name some of {others}")
    decoder.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, linear in linears.items():
        parent, _, last = name.rpartition(".")
        if last in targets:
            adapted = LoraLinear(linear, rank=rank, alpha=alpha, generator=generator)
            setattr(layers.get_submodule(parent), last, adapted)


def merge_lora(decoder: nn.Module) -> None:
    """Adds every adapter to its weight and makes the maps plain again."""
    for name, adapted in list(_adapters(decoder)):
        parent, _, last = name.rpartition(".")
        with torch.no_grad():
            adapted.weight += adapted.scale * (adapted.lora_B @ adapted.lora_A)
        num_out, num_in = adapted.weight.shape
        linear = nn.Linear(num_in, num_out, bias=adapted.bias is not None, device="meta")
        linear.weight, linear.bias = adapted.weight, adapted.bias
        setattr(decoder.get_submodule(parent), last, linear)


def save_adapter(
    decoder: nn.Module, folder: Path, *, base: str, rank: int, alpha: float, targets: Sequence[str]
) -> None:
    """``adapter_config.json`` and ``adapter_model.safetensors`` as peft writes and reads them; ``base`` is the model
    folder that the adapter belongs to."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"base_model.model.{name}.{part}.weight": getattr(adapted, part).detach().cpu().contiguous()
        for name, adapted in _adapters(decoder)
        for part in ("lora_A", "lora_B")
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(targets),
        "inference_mode": True,
    }
    write_json_atomic(folder / "adapter_config.json", config)


def _adapters(decoder: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    return ((name, module) for name, module in decoder.named_modules() if isinstance(module, LoraLinear))
