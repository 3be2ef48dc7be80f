"""The optimiser, its parameter groups, and the clipping of gradients."""

from __future__ import annotations

import inspect
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from aha.errors import SettingError

Moments = Literal["float32", "bf16"]


def build_adamw(
    module: nn.Module,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    weight_decay: float = 0.1,
    moments: Moments = "float32",
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters: matrices decay, parameters of one dimension (norms, biases) do not.

    ``moments`` is the type both moments are kept in; ``float32`` is for that of the parameters. They are made at once,
    below all that a step makes and frees, or they would lie scattered in what the first step leaves. The fused form
    updates a tensor in one pass; for the forty small tensors of a tiny model on a CPU it takes a third of the time of
    the others.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    kind = AdamWBf16Moments if moments == "bf16" else AdamW
    optimizer = kind([group for group in groups if group["params"]], lr=lr, betas=betas, eps=eps, fused=True)
    for parameter in parameters:
        optimizer.state[parameter] = _fresh_moments(
            parameter, torch.bfloat16 if moments == "bf16" else parameter.dtype
        )
    return optimizer


class AdamW(torch.optim.AdamW):
    """torch's own without the decorators that import its compiler, which costs every process 2 seconds and 70 MB."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)


class AdamWBf16Moments(AdamW):
    """AdamW that keeps both moments in BF16: 4 bytes a parameter fewer, and computes in the parameter's own type.

    DeepSeek-V3 (arXiv 2412.19437), section 3.3.3, with betas 0.9 and 0.95. BF16 has 8 bits: a moment that shrinks by
    less than 2^-8 of itself in a step is rounded back and never falls, so a beta above 1 - 2^-8 is a ``SettingError``.
    """

    def __init__(self, params: list[dict[str, Any]], *, betas: tuple[float, float], **options: Any) -> None:
        if max(betas) > 1 - 2**-8:
            raise SettingError(
                f"betas {betas} with moments in BF16: a moment cannot fall by less than 1/256 of itself in a step; "
                "take a beta up to 0.996 (DeepSeek-V3: 0.9 and 0.95) or moments in float32"
            )
        super().__init__(params, betas=betas, **options)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update; only ``_AT_ONCE`` numbers' moments are widened at a time."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state |= _fresh_moments(parameter, torch.bfloat16)
        beta1, beta2 = group["betas"]
        flat = (parameter.view(-1), grad.reshape(-1), state["exp_avg"].view(-1), state["exp_avg_sq"].view(-1))
        for weight, own_grad, *narrow in zip(*(torch.split(x, _AT_ONCE) for x in flat), strict=True):
            first, second = (moment.to(parameter.dtype) for moment in narrow)
            adamw(
                [weight], [own_grad], [first], [second], [], [state["step"].clone()], fused=True, amsgrad=False,
                beta1=beta1, beta2=beta2, lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"],
                maximize=False,
            )  # fmt: skip
            for moment, new in zip(narrow, (first, second), strict=True):
                moment.copy_(new)
        state["step"] += 1


_AT_ONCE = 2**20


def _fresh_moments(parameter: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
        "exp_avg": torch.zeros_like(parameter, dtype=dtype),
        "exp_avg_sq": torch.zeros_like(parameter, dtype=dtype),
    }


def gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The gradients that the optimiser would use now."""
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def gradient_norm(optimizer: torch.optim.Optimizer) -> float:
    """The Euclidean norm of all gradients together."""
    return float(nn.utils.get_total_norm(gradients(optimizer)))


def clip_grad_norm(optimizer: torch.optim.Optimizer, max_norm: float, *, norm: float) -> None:
    """Scales the gradients, whose norm is ``norm``, down to ``max_norm`` if they are longer."""
    if norm > max_norm:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grads_with_norm_(parameters, max_norm, torch.tensor(norm, device=parameters[0].device))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Gives every group the learning rate ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr
