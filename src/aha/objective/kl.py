"""Estimators of KL(policy || reference) per token, from log-probs of tokens that the policy sampled.

With ``d = ref_logp - logp`` (so ``exp(d)`` is the u of DeepSeekMath 4.1): k1 is unbiased, noisy and can be negative;
k2 is biased and calm; k3 is unbiased and never negative. Source: Schulman, "Approximating KL divergence" (2020), cited
by DeepSeekMath (2402.03300) equation 4.
"""

from __future__ import annotations

from torch import Tensor


def k1(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """``-d``, any shape."""
    return logp - ref_logp


def k2(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """``d**2 / 2``, any shape."""
    return (ref_logp - logp).square() / 2


def k3(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """``exp(d) - d - 1``, any shape; its gradient with respect to logp is ``1 - exp(d)`` (DeepSeekMath A.1.6)."""
    d = ref_logp - logp
    return d.expm1() - d
