"""The optimiser, its parameter groups, and the clipping of gradients."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from aha.errors import SettingError
from aha.model import kernels
from aha.train.halves import join, split

Moments = Literal["float32", "bf16"]


def build_adamw(
    module: nn.Module,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    weight_decay: float = 0.1,
    moments: Moments = "float32",
    lower: Mapping[nn.Parameter, Tensor] | None = None,
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters: matrices decay, parameters of one dimension (norms, biases) do not.

    ``moments`` is the type both moments are kept in; ``float32`` is for that of the parameters. ``lower`` has the lower
    halves of parameters whose upper halves are in ``module`` (train/halves.py). All state is made at once, below
    what a step makes and frees, or it would lie scattered in what the first step leaves. The fused form updates a
    tensor in one pass; for the forty small tensors of a tiny model on a CPU it takes a third of the time of the others.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if moments == "bf16" and max(betas) > 1 - 2**-8:
        raise SettingError(
            f"betas {betas} with moments in BF16: a moment cannot fall by less than 1/256 of itself in a step; "
            "take a beta up to 0.996 (DeepSeek-V3: 0.9 and 0.95) or moments in float32"
        )
    kind = NarrowAdamW if moments == "bf16" or lower is not None else AdamW
    optimizer = kind([group for group in groups if group["params"]], lr=lr, betas=betas, eps=eps, fused=True)
    for parameter in parameters:
        wide = parameter.dtype if lower is None else torch.float32
        dtype = torch.bfloat16 if moments == "bf16" else wide
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, dtype=dtype),
            "exp_avg_sq": torch.zeros_like(parameter, dtype=dtype),
            **({} if lower is None else {"lower": lower[parameter]}),
        }
    return optimizer


class AdamW(torch.optim.AdamW):
    """torch's own without the decorators that import its compiler, which costs every process 2 seconds and 70 MB."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)


class NarrowAdamW(AdamW):
    """AdamW that keeps moments in BF16, weights in two halves (train/halves.py), or both, and computes in float32.

    DeepSeek-V3 (arXiv 2412.19437), section 3.3.3, with betas 0.9 and 0.95. BF16 has 8 bits: a moment that shrinks by
    less than 2^-8 of itself in a step is rounded back and never falls.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update; only ``_AT_ONCE`` numbers are widened at a time."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        compilable = parameter.dtype == torch.float32 or "lower" in state
        if compilable and parameter.device.type == "cpu" and kernels.available():
            state["step"] += 1
            kernels.adamw(
                parameter, state.get("lower"), state["exp_avg"], state["exp_avg_sq"], grad.contiguous(),
                step=state["step"].item(), **{name: group[name] for name in ("lr", "betas", "eps", "weight_decay")},
            )  # fmt: skip
            return
        names = [name for name in ("exp_avg", "exp_avg_sq", "lower") if name in state]
        flat = (parameter.view(-1), grad.reshape(-1), *(state[name].view(-1) for name in names))
        for upper, own_grad, first, second, *lower in zip(*(torch.split(x, _AT_ONCE) for x in flat), strict=True):
            weight = join(upper, *lower) if lower else upper
            wide = [moment.to(weight.dtype) for moment in (first, second)]  # itself where it is as wide
            adamw(
                [weight], [own_grad.to(weight.dtype)], wide[:1], wide[1:], [], [state["step"].clone()], fused=True,
                amsgrad=False, beta1=beta1, beta2=beta2, lr=group["lr"], weight_decay=group["weight_decay"],
                eps=group["eps"], maximize=False,
            )  # fmt: skip
            for moment, new in zip((first, second), wide, strict=True):
                moment.copy_(new)
            if lower:
                for half, new in zip((upper, *lower), split(weight), strict=True):
                    half.copy_(new)
        state["step"] += 1


_AT_ONCE = 2**20


def gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The gradients that the optimiser would use now."""
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def gradient_norm(optimizer: torch.optim.Optimizer) -> float:
    """The Euclidean norm of all gradients together, in float32 or wider."""
    found = gradients(optimizer)
    if all(grad.dtype != torch.bfloat16 for grad in found):
        return float(nn.utils.get_total_norm(found))
    # In pieces: a norm in a wider type widens all that it reads.
    pieces = (piece for grad in found for piece in torch.split(grad.reshape(-1), 2**16))
    norms = [torch.linalg.vector_norm(piece, dtype=torch.float32) for piece in pieces]
    return float(torch.linalg.vector_norm(torch.stack(norms)))


def clip_grad_norm(optimizer: torch.optim.Optimizer, max_norm: float, *, norm: float) -> None:
    """Scales the gradients, whose norm is ``norm``, down to ``max_norm`` if they are longer."""
    if norm <= max_norm:
        return
    found = gradients(optimizer)
    if any(grad.dtype == torch.bfloat16 for grad in found):
        for grad in found:
            grad.mul_(max_norm / (norm + 1e-6))  # a number: by a float32 tensor they would be widened first
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    nn.utils.clip_grads_with_norm_(parameters, max_norm, torch.tensor(norm, device=parameters[0].device))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Gives every group the learning rate ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr
