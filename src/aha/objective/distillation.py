"""Logit distillation: the student learns the teacher's whole distribution over the next token, not one token of it.

Shapes: N positions, D width of the student, E of the teacher, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from aha.objective.logprob import CHUNK_ELEMENTS


def teacher_kl(
    hidden_ND: Tensor, head_VD: Tensor, teacher_NE: Tensor, teacher_head_VE: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """[N] ``KL(teacher || student)`` of the next token in nats, times ``temperature ** 2``, so that its gradient does
    not shrink as both are flattened (Hinton et al. 2015, 1503.02531, section 2.1). ``teacher`` are its hidden states.
    It carries gradient to the student alone; logits, of both, exist for a chunk of positions at a time."""
    chunk = distilled_at_once(head_VD.shape[0])
    if len(hidden_ND) <= chunk:
        return _kl(hidden_ND, head_VD, teacher_NE, teacher_head_VE, temperature)
    parts = zip(torch.split(hidden_ND, chunk), torch.split(teacher_NE, chunk), strict=True)
    rest = teacher_head_VE, temperature
    return torch.cat([checkpoint(_kl, own, head_VD, other, *rest, use_reentrant=False) for own, other in parts])


def distilled_at_once(V: int) -> int:
    """How many positions have logits at a time."""
    return max(1, CHUNK_ELEMENTS // V)


def _kl(
    hidden_ND: Tensor, head_VD: Tensor, teacher_NE: Tensor, teacher_head_VE: Tensor, temperature: float
) -> Tensor:
    student_NV = ((hidden_ND @ head_VD.T).float() / temperature).log_softmax(-1)
    with torch.no_grad():
        teacher_NV = ((teacher_NE @ teacher_head_VE.T).float() / temperature).log_softmax(-1)
    return (teacher_NV.exp() * (teacher_NV - student_NV)).sum(-1) * temperature**2
