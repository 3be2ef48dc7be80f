"""Before step 0: what the stage's largest step needs, against what there is; after it, what was taken.

On a CPU nothing cheap measures the peak of a step (the process's resident memory also has the program, the allocator's
leftovers and pages never given back), so only a GPU's steps say ``memory_peak``.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import TypedDict

import torch
from torch import Tensor

from aha.errors import SettingError
from aha.model.checkpointing import checkpoint_layers
from aha.model.config import ModelConfig
from aha.objective.algorithms import Algorithm
from aha.records import Problem
from aha.rollout.native.memory import RolloutMemory
from aha.stages.models import Policy
from aha.train.memory import Layout, estimate_distillation, estimate_held, estimate_logprobs, estimate_step
from aha.train.optimizer import Moments
from aha.util.memory import available_memory

GIB = 2**30


def estimate_supervised(
    config: ModelConfig,
    updates: Iterable[Sequence[Layout]],
    *,
    like: Tensor,
    logits: bool = True,
    mtp: bool = False,
    recomputed: int = 0,
    lora: int = 0,
    teacher: ModelConfig | None = None,
) -> int:
    """Bytes at the peak of the largest of ``updates``: weights, moments, and what the update takes beside them.
    ``like`` has the type and device of the weights. With ``mtp`` modules of multi-token prediction learn, too; of
    ``recomputed`` layers only the inputs are kept. With ``lora`` adapters of that rank learn and nothing else. Of a
    ``teacher`` the weights are there already."""
    held = estimate_held(config, bytes_per_number=like.itemsize, logits=logits, mtp=mtp, lora=lora)
    where = _where(like)
    steps = [0]
    for update in updates:
        step = estimate_step(config, update, logits=logits, mtp=mtp, recomputed=recomputed, lora=lora, **where)
        if teacher is not None:
            step += estimate_distillation(config, update, bytes_per_number=like.itemsize)
            step = max(step, held.gradients + estimate_logprobs(teacher, update, **where))
        steps.append(step)
    return held.weights + held.moments + max(steps)


def estimate_rl(
    config: ModelConfig,
    layouts: Sequence[Layout],
    read: Sequence[Layout],
    rollout: RolloutMemory,
    algorithm: Algorithm,
    *,
    like: Tensor,
    beside: bool = False,
    mtp: bool = False,
    halves: bool = False,
    moments: Moments = "float32",
    recomputed: int = 0,
) -> int:
    """Bytes at the peak of a step: the policy and what the row of the table asks for (a reference, a critic with
    moments of its own), and the largest of what sampling (with weights and a cache of its own), log-probs of the whole
    rollout, and updates take; with ``beside`` sampling goes on beside the others, and the sampler's weights are there
    once more. ``layouts`` are an update's, ``read`` the whole
    rollout's. The gradients of a model stay until its next update begins, or the step ends. With ``mtp`` an update is
    counted as if the modules of multi-token prediction took part, which have one of their own. With ``halves`` weights
    are in two (train/halves.py), and gradients float32 from the second micro-batch on. A reference is counted whole,
    though on a CPU a file has it. Of ``recomputed`` layers only the inputs are kept."""
    where: _Where = {**_where(like), "bytes_per_number": 2} if halves else _where(like)
    policy = estimate_held(config, bytes_per_number=where["bytes_per_number"], mtp=mtp)
    step = estimate_step(config, layouts, mtp=mtp, recomputed=recomputed, **where)
    copies = bool(algorithm.beta) + beside
    sampling, before = rollout.held + rollout.working, estimate_logprobs(config, read, **where)
    each = 2 if moments == "bf16" else 4 if halves else like.itemsize
    held = (1 + copies) * policy.weights + policy.moments * each // where["bytes_per_number"]
    if halves:
        held += policy.gradients  # the lower halves of what learns
        step += policy.gradients if len(layouts) > 1 else 0
    if beside:
        held += sampling
    else:
        before = max(before, sampling)
    if algorithm.critic is None:
        return held + max(step, before)
    critic = estimate_held(config, bytes_per_number=like.itemsize, logits=False)
    critic_step = estimate_step(config, layouts, logits=False, **where)
    held += critic.weights + critic.moments
    return held + max(step + critic.gradients, critic_step + policy.gradients, before)


def _where(like: Tensor) -> _Where:
    return {"bytes_per_number": like.itemsize, "on_cpu": like.device.type == "cpu"}


class _Where(TypedDict):
    bytes_per_number: int
    on_cpu: bool


def longest_prompt(policy: Policy, problems: Iterable[Problem]) -> int:
    """Tokens of the longest prompt, among those whose text is longest."""
    candidates = heapq.nlargest(16, problems, key=lambda problem: len(problem.prompt))
    return max((len(policy.renderer.prompt(problem.prompt)) for problem in candidates), default=1)


def fit_memory(estimate: Callable[[int], int], policy: Policy, *, lower: str) -> tuple[int, int]:
    """What a step needs, ``estimate`` of so many recomputed layers, and their number: the fewest with which it fits,
    from now on recomputed. ``SettingError`` as of :func:`check_memory`. Experts are not recomputed: their load would
    be counted twice."""
    layers = 0 if policy.config.n_routed_experts else policy.config.num_hidden_layers
    room = _room(policy)
    number = next((n for n in range(layers) if room is None or estimate(n) <= room), layers)
    need = estimate(number)
    check_memory(need, policy, lower=lower)
    if number:
        checkpoint_layers(policy.decoder, number)
    return need, number


def _room(policy: Policy) -> int | None:
    """Bytes there are for a stage that has loaded ``policy`` and nothing else, the policy's own among them."""
    device = policy.decoder.head_weight.device
    held = sum(parameter.nbytes for parameter in policy.decoder.parameters())
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused + held
    free = available_memory()
    return None if free is None else free + held


def check_memory(need: int, policy: Policy, *, lower: str) -> None:
    """``SettingError`` where a stage that has loaded ``policy`` and nothing else cannot have ``need`` bytes in all;
    ``lower`` names the settings that need less. Starts the measurement of a GPU's peak."""
    device = policy.decoder.head_weight.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    room = _room(policy)
    if room is not None and need > room:
        raise SettingError(
            f"a step needs {need / GIB:.2f} GiB at its peak and there are {room / GIB:.2f} GiB for it on "
            f"{device}: lower {lower}, take a smaller model, or free memory"
        )


def memory_metrics(step: int, need: int, device: torch.device, *, recomputed: int = 0) -> dict[str, float]:
    """For a step's row: at step 1 what was estimated, and the layers computed again to fit; on a GPU the most that any
    step so far has taken."""
    row = {"memory_estimate": float(need)} if step == 1 else {}
    if step == 1 and recomputed:
        row["recomputed_layers"] = float(recomputed)
    if device.type == "cuda":
        row["memory_peak"] = float(torch.cuda.max_memory_allocated(device))
    return row
