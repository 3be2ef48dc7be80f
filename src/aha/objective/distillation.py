"""Logit distillation: the student learns the teacher's whole distribution over the next token, not one token of it.

Shapes: N positions, D width of the student, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from aha.objective.logprob import CHUNK_ELEMENTS


def teacher_kl(
    hidden_ND: Tensor, head_VD: Tensor, teacher_logits_NV: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """[N] ``KL(teacher || student)`` of the next token in nats, times ``temperature ** 2``, so that its gradient does
    not shrink as both are flattened (Hinton et al. 2015, 1503.02531, section 2.1). It carries gradient to the student;
    the student's logits exist for a chunk of positions at a time."""
    chunk = max(1, CHUNK_ELEMENTS // head_VD.shape[0])
    if len(hidden_ND) <= chunk:
        return _kl(hidden_ND, head_VD, teacher_logits_NV, temperature)
    parts = zip(torch.split(hidden_ND, chunk), torch.split(teacher_logits_NV, chunk), strict=True)
    return torch.cat([checkpoint(_kl, h, head_VD, logits, temperature, use_reentrant=False) for h, logits in parts])


def _kl(hidden_ND: Tensor, head_VD: Tensor, teacher_logits_NV: Tensor, temperature: float) -> Tensor:
    student_NV = ((hidden_ND @ head_VD.T).float() / temperature).log_softmax(-1)
    teacher_NV = (teacher_logits_NV.float() / temperature).log_softmax(-1)
    return (teacher_NV.exp() * (teacher_NV - student_NV)).sum(-1) * temperature**2
