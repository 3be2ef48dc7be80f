"""Everything that is needed to go on as if nothing had happened: step, weights, moments, and what the stage adds.

Randomness needs no place here: it comes from named streams of the seed and the step, never from a global generator.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aha.errors import CheckpointError

_TENSORS = "state.safetensors"
_RECORD = "state.json"


@dataclass
class TrainState:
    """A state of training: ``TrainState(step=0, decoder=decoder, optimizer=optimizer, extra={})``.

    ``step`` counts the updates made. ``extra`` is anything JSON can hold. ``frozen`` names further modules whose
    weights cannot be had elsewhere, such as a reference that was refreshed; ``also`` those that are trained too, each
    with its optimiser, such as a critic. ``decoder`` may be any module.
    """

    step: int
    decoder: nn.Module
    optimizer: torch.optim.Optimizer
    extra: dict[str, Any] = field(default_factory=dict)
    frozen: Mapping[str, nn.Module] = field(default_factory=dict)
    also: Mapping[str, tuple[nn.Module, torch.optim.Optimizer]] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Writes the folder ``path``. Whatever happens, either the old or the new state is there and whole."""
        path = Path(path)
        new, old = path.with_name(f".{path.name}.new"), _previous(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)  # left over; while path itself is missing, old is the state
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        tensors, scalars = self._collect()
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, new / _TENSORS)
        record = {"step": self.step, "extra": self.extra, "scalars": scalars, "tensors": len(tensors)}
        (new / _RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
        for file in (new / _TENSORS, new / _RECORD, new):
            _sync(file)
        if path.exists():
            os.rename(path, old)
        os.rename(new, path)
        _sync(path.parent)
        shutil.rmtree(old, ignore_errors=True)

    def resume(self, path: str | Path) -> None:
        """:meth:`load` where :meth:`save` has begun to write there, else nothing: a stage goes on or starts."""
        path = Path(path)
        if path.exists() or _previous(path).exists():
            self.load(path)

    def load(self, path: str | Path) -> None:
        """Fills step, extra, weights and moments from a folder that :meth:`save` wrote, bit for bit.

        The objects must be built with the same shapes and parameter groups. CheckpointError says what is missing, cut
        off or does not fit; weights are only touched once everything fits.
        """
        path = Path(path)
        if not path.exists() and _previous(path).exists():  # stopped between the two renames
            path = _previous(path)
        record, stored = _read(path)
        modules = self._module_tensors()
        names = self._parameter_names()
        own = {n for n in stored if n.startswith("optimizer/")}
        _check_fit(path, modules, {n: t for n, t in stored.items() if n not in own})
        moments: dict[str, dict[str, Any]] = {name: {} for name in names.values()}
        loose = {n: stored[n] for n in own} | {n: v for n, v in record["scalars"].items()}
        for full_name, value in loose.items():
            _, name, key = full_name.split("/")
            if name not in moments:
                raise CheckpointError(f"{path}: optimiser state of {name!r}, which the optimiser does not train")
            moments[name][key] = value
        with torch.no_grad():
            for name, tensor in modules.items():
                tensor.copy_(stored[name])
        for optimizer in self._optimizers():
            optimizer.state.clear()
            for parameter in _trained(optimizer):
                if own_moments := moments[names[parameter]]:
                    optimizer.state[parameter] = {k: _like(v, parameter) for k, v in own_moments.items()}
        self.step, self.extra = record["step"], record["extra"]

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        return [self.optimizer, *(optimizer for _, optimizer in self.also.values())]

    def _module_tensors(self) -> dict[str, Tensor]:
        """Weights and buffers under names like ``decoder/model.norm.weight``; a shared one once."""
        seen: set[int] = set()
        tensors = {}
        modules = {
            "decoder": self.decoder,
            **{f"also.{k}": m for k, (m, _) in self.also.items()},
            **{f"frozen.{k}": m for k, m in self.frozen.items()},
        }
        for prefix, module in modules.items():
            for name, tensor in module.state_dict(keep_vars=True).items():
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    tensors[f"{prefix}/{name}"] = tensor
        return tensors

    def _parameter_names(self) -> dict[nn.Parameter, str]:
        known = {parameter: name for name, parameter in self.decoder.named_parameters()}
        for prefix, (module, _) in self.also.items():
            known |= {parameter: f"{prefix}.{name}" for name, parameter in module.named_parameters()}
        trained = [parameter for optimizer in self._optimizers() for parameter in _trained(optimizer)]
        if any(p not in known for p in trained):
            raise CheckpointError("the optimiser trains a parameter that is not the decoder's: not its optimiser?")
        return {p: known[p] for p in trained}

    def _collect(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All tensors to write, and the optimisers' entries that are no tensors."""
        tensors = self._module_tensors()
        scalars: dict[str, Any] = {}
        names = self._parameter_names()
        for optimizer in self._optimizers():
            for parameter in _trained(optimizer):
                for key, value in optimizer.state.get(parameter, {}).items():
                    kept = tensors if isinstance(value, Tensor) else scalars
                    kept[f"optimizer/{names[parameter]}/{key}"] = value
        return tensors, scalars


def _trained(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _previous(path: Path) -> Path:
    """Where the state of before is while a new one takes its place."""
    return path.with_name(f".{path.name}.old")


def _like(value: Any, parameter: Tensor) -> Any:
    return value.to(parameter.device) if isinstance(value, Tensor) else value


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        record = json.loads((path / _RECORD).read_text(encoding="utf-8"))
        stored = load_file(path / _TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path}: state missing or cut off ({error}); start again or use an older one") from error
    if not isinstance(record, dict) or record.get("tensors") != len(stored):
        raise CheckpointError(f"{path}: {_RECORD} and {_TENSORS} do not belong together; use an older state")
    return record, stored


def _check_fit(path: Path, expected: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    if expected.keys() != stored.keys():
        odd = sorted(expected.keys() ^ stored.keys())[0]
        where = "the state but not the model" if odd in stored else "the model but not the state"
        raise CheckpointError(f"{path}: tensor {odd} is in {where}")
    for name, tensor in expected.items():
        have, want = (f"{tuple(t.shape)} {t.dtype}" for t in (stored[name], tensor))
        if have != want:
            raise CheckpointError(f"{path}: tensor {name} is {have}, not {want}")


def _sync(path: Path) -> None:
    """Forces a file or folder to disk, so that a rename never points to what is not there yet."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
