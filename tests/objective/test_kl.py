from __future__ import annotations

import math

import torch

from aha.objective.kl import k1, k2, k3


def test_by_hand() -> None:
    logp = torch.tensor([0.5, 0.25], dtype=torch.float64).log()
    ref_logp = torch.tensor([0.25, 0.5], dtype=torch.float64).log()
    ln2 = math.log(2)
    torch.testing.assert_close(k1(logp, ref_logp), torch.tensor([ln2, -ln2], dtype=torch.float64))
    torch.testing.assert_close(k2(logp, ref_logp), torch.tensor([ln2**2 / 2] * 2, dtype=torch.float64))
    # u = 1/2: 1/2 + ln 2 - 1; u = 2: 2 - ln 2 - 1
    torch.testing.assert_close(k3(logp, ref_logp), torch.tensor([ln2 - 0.5, 1 - ln2], dtype=torch.float64))


def test_k1_and_k3_are_unbiased_and_k2_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    logp = torch.randn(50, generator=generator, dtype=torch.float64).log_softmax(0)
    ref_logp = torch.randn(50, generator=generator, dtype=torch.float64).log_softmax(0)
    exact = (logp.exp() * (logp - ref_logp)).sum()
    for estimator in (k1, k3):
        torch.testing.assert_close((logp.exp() * estimator(logp, ref_logp)).sum(), exact)
    assert abs((logp.exp() * k2(logp, ref_logp)).sum() - exact) > 0.01
    assert k3(logp, ref_logp).min() >= 0 > k1(logp, ref_logp).min()


def test_gradient_coefficient_of_k3() -> None:
    """DeepSeekMath A.1.6: ascent multiplies grad log pi by beta * (u - 1), so the loss has -beta * (u - 1)."""
    beta = 0.04
    logp = torch.tensor([-0.1, -2.0, -1.0], dtype=torch.float64, requires_grad=True)
    ref_logp = torch.tensor([-1.0, -0.5, -1.0], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(beta * k3(logp, ref_logp).sum(), logp)
    u = (ref_logp - logp.detach()).exp()
    torch.testing.assert_close(gradient, -beta * (u - 1))
    assert gradient[0] > 0 > gradient[1], "likelier than under the reference is pushed down, and the other way round"


def test_k3_keeps_tiny_differences_in_float32() -> None:
    logp, ref_logp = torch.tensor([-1.0]), torch.tensor([-1.0 + 2**-10])
    assert abs(k3(logp, ref_logp).item() - 2**-21) < 2**-31 * 2, "exp(d) - d - 1 by subtraction would be off"
