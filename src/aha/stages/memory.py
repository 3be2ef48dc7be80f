"""Before step 0: what the stage's largest step needs, against what there is; after it, what was taken.

On a CPU nothing cheap measures the peak of a step (the process's resident memory also has the program, the allocator's
leftovers and pages never given back), so only a GPU's steps say ``memory_peak``.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import TypedDict

import torch
from torch import Tensor

from aha.errors import SettingError
from aha.model.config import ModelConfig
from aha.objective.algorithms import Algorithm
from aha.records import Problem
from aha.rollout.native.memory import RolloutMemory
from aha.stages.models import Policy
from aha.train.memory import Layout, estimate_held, estimate_logprobs, estimate_step
from aha.util.memory import available_memory

GIB = 2**30


def estimate_supervised(
    config: ModelConfig,
    updates: Iterable[Sequence[Layout]],
    *,
    like: Tensor,
    logits: bool = True,
    mtp: bool = False,
) -> int:
    """Bytes at the peak of the largest of ``updates``: weights, moments, and what the update takes beside them.
    ``like`` has the type and device of the weights. With ``mtp`` modules of multi-token prediction learn, too."""
    held = estimate_held(config, bytes_per_number=like.itemsize, logits=logits, mtp=mtp)
    where = _where(like)
    steps = (estimate_step(config, update, logits=logits, mtp=mtp, **where) for update in updates)
    return held.weights + held.moments + max(steps)


def estimate_rl(
    config: ModelConfig,
    layouts: Sequence[Layout],
    read: Sequence[Layout],
    rollout: RolloutMemory,
    algorithm: Algorithm,
    *,
    like: Tensor,
    copies: int = 0,
    mtp: bool = False,
    twin: bool = False,
) -> int:
    """Bytes at the peak of a step: the policy and what the row of the table asks for (a reference, a critic with
    moments of its own), ``copies`` more of the weights, and the largest of what sampling (with weights and a cache of
    its own), log-probs of the whole rollout, and updates take. ``layouts`` are an update's, ``read`` the whole
    rollout's. The gradients of a model stay until its next update begins, or the step ends. With ``mtp`` an update is
    counted as if the modules of multi-token prediction took part, which have one of their own. With ``twin`` a BF16
    copy of the policy computes."""
    where: _Where = {**_where(like), "bytes_per_number": 2} if twin else _where(like)
    policy = estimate_held(config, bytes_per_number=where["bytes_per_number"], mtp=mtp)
    step = estimate_step(config, layouts, mtp=mtp, **where)
    copies += bool(algorithm.beta)
    before = max(rollout.held + rollout.working, estimate_logprobs(config, read, **where))
    held = policy.weights + policy.moments + copies * policy.weights
    if twin:  # the master's weights, gradients and moments beside the twin's weights
        master = estimate_held(config, bytes_per_number=4, mtp=mtp)
        held += master.weights + master.moments - policy.moments
        step += master.gradients
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


def check_memory(need: int, policy: Policy, *, lower: str) -> None:
    """``SettingError`` where a stage that has loaded ``policy`` and nothing else cannot have ``need`` bytes in all;
    ``lower`` names the settings that need less. Starts the measurement of a GPU's peak."""
    device = policy.decoder.head_weight.device
    held = sum(parameter.nbytes for parameter in policy.decoder.parameters())
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free: int | None = torch.cuda.mem_get_info(device)[0] + unused
    else:
        free = available_memory()
    if free is not None and need > free + held:
        raise SettingError(
            f"a step needs {need / GIB:.2f} GiB at its peak and there are {(free + held) / GIB:.2f} GiB for it on "
            f"{device}: lower {lower}, take a smaller model, or free memory"
        )


def memory_metrics(step: int, need: int, device: torch.device) -> dict[str, float]:
    """For a step's row: at step 1 what was estimated; on a GPU the most that any step so far has taken."""
    row = {"memory_estimate": float(need)} if step == 1 else {}
    if device.type == "cuda":
        row["memory_peak"] = float(torch.cuda.max_memory_allocated(device))
    return row
