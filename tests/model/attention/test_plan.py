from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aha.model.attention.plan import Branches, _Documents, _Masked, _Plain, fused_causal, plan_attention, plan_branches


def slow_attention(q: Tensor, k: Tensor, v: Tensor, segments: Tensor | None) -> Tensor:
    """One query at a time, by the definition."""
    B, T, N, H = q.shape
    out = torch.zeros_like(q)
    for b in range(B):
        for t in range(T):
            seen = [s for s in range(t + 1) if segments is None or segments[b, s] == segments[b, t]]
            for n in range(N):
                key = n // (N // k.shape[2])
                weights = (k[b, seen, key] @ q[b, t, n] / H**0.5).softmax(0)
                out[b, t, n] = weights @ v[b, seen, key]
    return out


def draw(B: int, T: int, N: int, K: int, H: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(B * 100 + T)
    return tuple(torch.randn(B, T, heads, H, generator=generator).double().requires_grad_() for heads in (N, K, K))


@pytest.mark.parametrize(("N", "K"), [(4, 1), (4, 2), (2, 2)])
def test_plain_and_fused_equal_the_definition(N: int, K: int) -> None:
    q, k, v = draw(2, 9, N, K)
    attend = plan_attention(q, rows=2, tokens=9, group=N // K, segments_BT=None)
    assert isinstance(attend, _Plain)
    expected = slow_attention(q, k, v, None)
    assert torch.allclose(attend(q, k, v), expected)
    assert torch.allclose(fused_causal(q, k, v), expected)


def test_long_rows_take_the_fused_kernel() -> None:
    assert plan_attention(torch.zeros(1).double(), rows=1, tokens=65, group=1, segments_BT=None) is fused_causal


# Documents of like length line up; one long beside many short ones would cost more lined up than masked.
ALIKE = [[1, 1, 1, 2, 2, 2, 2, 3, 3, 0], [1, 1, 1, 1, 2, 2, 2, 0, 0, 0]]
FULL = [[1, 1, 1, 2, 2, 2, 2, 3, 3, 0], [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]]  # the last document ends the memory
UNLIKE = [[1, 1, 1, 1, 1, 1, 1, 1, 2, 3], [1, 2, 3, 4, 5, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize(("rows", "kind"), [(ALIKE, _Documents), (FULL, _Documents), (UNLIKE, _Masked)])
@pytest.mark.parametrize(("N", "K"), [(4, 1), (4, 2)])
def test_packed_equals_the_definition(rows: list[list[int]], kind: type, N: int, K: int) -> None:
    segments = torch.tensor(rows)
    q, k, v = draw(2, 10, N, K)
    attend = plan_attention(q, rows=2, tokens=10, group=N // K, segments_BT=segments)
    assert isinstance(attend, kind)
    real = segments != 0
    out, expected = attend(q, k, v), slow_attention(q, k, v, segments)
    assert out.isfinite().all()
    assert torch.allclose(out[real], expected[real])
    pull = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).double() * real[..., None, None]
    grads = torch.autograd.grad(out, (q, k, v), pull)
    expected_grads = torch.autograd.grad(expected, (q, k, v), pull)
    assert all(torch.allclose(a, b) for a, b in zip(grads, expected_grads, strict=True))


def test_rows_of_padding_alone_are_finite() -> None:
    q, k, v = draw(2, 5, 2, 1)
    attend = plan_attention(q, rows=2, tokens=5, group=2, segments_BT=torch.zeros(2, 5, dtype=torch.long))
    assert attend(q, k, v).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])  # of which one is compiled
@pytest.mark.parametrize("rows", [[[1, 1, 1], [1, 1, 1]], [[1, 1, 2], [2, 1, 1]]])
def test_equal_numbers_in_two_rows_are_two_documents(rows: list[list[int]], dtype: torch.dtype) -> None:
    segments = torch.tensor(rows)
    q, k, v = (x.detach().to(dtype) for x in draw(2, 3, 2, 1))
    attend = plan_attention(q, rows=2, tokens=3, group=2, segments_BT=segments)
    assert torch.allclose(attend(q, k, v), slow_attention(q, k, v, segments), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_number_that_comes_again_is_another_document(dtype: torch.dtype) -> None:
    again, new = torch.tensor([[1] * 8 + [2, 1]]), torch.tensor([[1] * 8 + [2, 3]])
    q, k, v = (x.detach().to(dtype) for x in draw(1, 10, 2, 1))
    attend = plan_attention(q, rows=1, tokens=10, group=2, segments_BT=again)
    assert torch.allclose(attend(q, k, v), slow_attention(q, k, v, new), atol=1e-6)


def slow_branches(q: Tensor, k: Tensor, v: Tensor, branches: Branches) -> Tensor:
    """Every prompt and every continuation as a row of its own; of a continuation's row its own tokens are kept."""
    ends = torch.tensor(branches.prompts).cumsum(0).tolist()
    prompts = [list(range(end - n, end)) for end, n in zip(ends, branches.prompts, strict=True)]
    place, rows = sum(branches.prompts), []
    for p in prompts:
        rows.append(slow_attention(*(x[:, p] for x in (q, k, v)), None))
    for length, p in zip(branches.continuations, branches.prompt_of, strict=True):
        seen = [*prompts[p], *range(place, place + length)]
        rows.append(slow_attention(*(x[:, seen] for x in (q, k, v)), None)[:, len(prompts[p]) :])
        place += length
    return torch.cat(rows, 1)


@pytest.mark.parametrize(
    "branches",
    [
        Branches((3,), (4, 2, 1), (0, 0, 0)),
        Branches((2, 5, 1), (1, 3, 2, 4), (1, 0, 2, 1)),  # prompts of different length: a mask for each row
        Branches((2, 2), (3, 0, 1), (0, 1, 1)),  # a completion of one token has no input of its own
        Branches((4, 2), (0, 0), (0, 1)),
    ],
)
@pytest.mark.parametrize("plain_tokens", [64, 0])
@pytest.mark.parametrize(("N", "K"), [(4, 2), (2, 2)])
def test_shared_prompts_equal_rows_of_their_own(
    branches: Branches, plain_tokens: int, N: int, K: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aha.model.attention.plan._PLAIN_TOKENS_FLOAT32", plain_tokens)
    q, k, v = draw(1, sum(branches.prompts) + sum(branches.continuations), N, K)
    out = plan_branches(q, branches, group=N // K)(q, k, v)
    expected = slow_branches(q, k, v, branches)
    assert torch.allclose(out, expected)
    pull = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).double()
    grads = torch.autograd.grad(out, (q, k, v), pull)
    expected_grads = torch.autograd.grad(expected, (q, k, v), pull)
    assert all(torch.allclose(a, b) for a, b in zip(grads, expected_grads, strict=True))
