from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aha.objective import logprob
from aha.objective.logprob import token_logprobs


def case(dtype: torch.dtype = torch.float64, V: int = 11) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(7, 5, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    head = torch.randn(V, 5, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return hidden, head, torch.randint(V, (7,), generator=generator)


def slow(hidden: Tensor, head: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    table = (hidden @ head.T / temperature).log_softmax(-1)
    return table[torch.arange(len(targets)), targets], -(table.exp() * table).sum(-1)


def test_two_tokens_by_hand() -> None:
    hidden, head = torch.tensor([[1.0]]), torch.tensor([[1.0], [0.0]])
    logp, entropy = token_logprobs(hidden, head, torch.tensor([0]))
    p = 1 / (1 + torch.tensor(-1.0).exp())
    torch.testing.assert_close(logp[0], p.log())
    torch.testing.assert_close(entropy[0], -(p * p.log() + (1 - p) * (1 - p).log()))


@pytest.mark.parametrize("chunk", [1, 3, 7, 100, None])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_equals_the_plain_form_with_gradients_for_any_chunk(chunk: int | None, temperature: float) -> None:
    hidden, head, targets = case()
    logp, entropy = token_logprobs(hidden, head, targets, temperature=temperature, chunk=chunk)
    want_logp, want_entropy = slow(hidden, head, targets, temperature)
    torch.testing.assert_close(logp, want_logp)
    torch.testing.assert_close(entropy, want_entropy.detach())
    assert not entropy.requires_grad
    coefficients = torch.linspace(-2, 3, 7, dtype=torch.float64)
    got = torch.autograd.grad((logp * coefficients).sum(), (hidden, head))
    want = torch.autograd.grad((want_logp * coefficients).sum(), (hidden, head))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("chunk", [3, 7])
def test_gradcheck(chunk: int) -> None:
    hidden, head, targets = case()
    assert torch.autograd.gradcheck(
        lambda h, w: token_logprobs(h, w, targets, temperature=0.8, chunk=chunk)[0], (hidden, head)
    )


def test_bfloat16_inputs_give_float32_logprobs_and_bfloat16_gradients() -> None:
    hidden, head, targets = case(torch.bfloat16)
    logp, _ = token_logprobs(hidden, head, targets, chunk=2)
    assert logp.dtype == torch.float32
    logp.sum().backward()
    wide = [x.detach().double().requires_grad_() for x in (hidden, head)]
    slow(*wide, targets, 1.0)[0].sum().backward()
    for narrow, exact in zip((hidden, head), wide, strict=True):
        assert narrow.grad is not None and narrow.grad.dtype == torch.bfloat16
        assert (narrow.grad.double() - exact.grad).norm() < 0.02 * exact.grad.norm()


def test_the_default_never_holds_more_logits_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, head, targets = case()
    rows: list[int] = []
    original = logprob._read

    def spy(logits: Tensor, *rest: object) -> object:
        rows.append(len(logits))
        return original(logits, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(logprob, "CHUNK_ELEMENTS", 25)
    monkeypatch.setattr(logprob, "_read", spy)
    token_logprobs(hidden, head, targets)
    assert rows == [2, 2, 2, 1]


def test_positions_at_once_by_hand() -> None:
    """A vocabulary of 2^17 has 64 positions in 2^23 logits; in 16 bits as many as the model is wide go at once."""
    assert logprob.positions_at_once(100, 2**17, 4096, itemsize=4) == 64
    assert logprob.positions_at_once(100, 2**17, 4096, itemsize=2) == 100
    assert logprob.positions_at_once(5000, 2**17, 4096, itemsize=2) == 64
    assert logprob.positions_at_once(5000, 2**17, 4096, itemsize=2, on_cpu=False) == 1024


def test_no_positions() -> None:
    hidden, head, _ = case()
    logp, entropy = token_logprobs(hidden[:0], head, torch.zeros(0, dtype=torch.long))
    assert logp.shape == entropy.shape == (0,)
    logp.sum().backward()


@pytest.mark.parametrize("chunk", [3, 7, 100])
def test_gradients_formed_beside_the_logprobs_are_those_formed_after_them(chunk: int) -> None:
    hidden, head, targets = case()
    weights = torch.linspace(-2, 3, 7, dtype=torch.float64)

    def run(slope: logprob.Slope | None, upstream: float) -> tuple[Tensor, ...]:
        logp, _ = token_logprobs(hidden, head, targets, temperature=0.7, chunk=chunk, slope=slope)
        return torch.autograd.grad(upstream * (logp.exp() * weights).sum(), (hidden, head))

    def foretell(logp: Tensor, part: slice) -> Tensor:
        return logp.exp() * weights[part]

    torch.testing.assert_close(run(foretell, 1.0), run(None, 1.0), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(run(foretell, 2.0), run(None, 2.0))  # foretold wrongly: computed again
    torch.testing.assert_close(run(lambda logp, part: logp * float("nan"), 1.0), run(None, 1.0))


def test_with_a_slope_no_logits_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, head, targets = case()
    weights = torch.linspace(-2, 3, 7, dtype=torch.float64)  # each chunk is foretold by its own
    logp, _ = token_logprobs(hidden, head, targets, chunk=2, slope=lambda logp, part: weights[part])
    monkeypatch.setattr(logprob, "_pull", None)
    (logp * weights).sum().backward()
    assert head.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_rows_are_those_of_pytorch(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, head, targets = case(dtype, V=301)

    def run() -> tuple[Tensor, ...]:
        logp, entropy = token_logprobs(hidden * 8, head, targets, temperature=0.8, chunk=3)
        return logp.detach(), entropy, *torch.autograd.grad((logp * logp.detach()).sum(), (hidden, head))

    if not logprob.kernels.usable(hidden):
        pytest.skip("no C compiler")
    compiled = run()
    monkeypatch.setattr(logprob.kernels, "usable", lambda *_: False)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(compiled, run(), **tolerance)
