"""The compiled functions against PyTorch, which is what runs where there is no compiler."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from aha.model import kernels
from aha.model.feedforward import DenseFeedForward
from aha.model.norm import RMSNorm
from aha.model.product import linear
from aha.model.rope import RotationTable, rotate

pytestmark = pytest.mark.skipif(not kernels.usable(torch.zeros(1)), reason="no C compiler")
ROWS = 130  # two blocks of rows and a part of one


def check(
    run: Callable[[], tuple[Tensor, ...]], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = run()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    again = run()
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(compiled, again, strict=True))  # whatever the threads
    monkeypatch.setattr(kernels, "usable", lambda *_: False)
    for one, other in zip(compiled, run(), strict=True):
        assert one.dtype == other.dtype == dtype
        tolerance = 1e-5 if dtype == torch.float32 else 1.5e-2
        assert (one - other).abs().max() <= tolerance * other.abs().max()


def random(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("add", [False, True])
def test_norm(add: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    norm = RMSNorm(37, eps=1e-5).to(dtype)
    with torch.no_grad():
        norm.weight.copy_(random(37, dtype=dtype, seed=1))
    x, update, pull, beside = (random(2, ROWS // 2, 37, dtype=dtype, seed=s) for s in range(2, 6))

    def run() -> tuple[Tensor, ...]:
        inputs = [x.clone().requires_grad_(), update.clone().requires_grad_()]
        total, normed = norm.add(inputs[0], inputs[1] if add else None)
        loss = (normed * pull).sum() + (total * beside).sum()
        wanted = (*inputs, norm.weight) if add else (inputs[0], norm.weight)
        return total.detach(), normed.detach(), *torch.autograd.grad(loss, wanted)

    check(run, dtype, monkeypatch)


@pytest.mark.parametrize("kernel", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_is_made_again_bit_for_bit(
    dtype: torch.dtype, kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    norm, layer = RMSNorm(37, eps=1e-5).to(dtype), DenseFeedForward(37, 43).to(dtype)
    x, update, pull = (random(2, ROWS // 2, 37, dtype=dtype, seed=s) for s in range(3))
    if not kernel:
        monkeypatch.setattr(kernels, "usable", lambda *_: False)
    grads = []
    for kept in (False, True):  # what the feed-forward reads: a norm that carries what it is made of, or does not
        own = x.clone().requires_grad_()
        normed = norm.add(own, update)[1]
        assert torch.equal(normed.made.again(), normed)  # type: ignore[attr-defined]
        y = layer(normed.view_as(normed) if kept else normed)
        grads.append(torch.autograd.grad((y * pull).sum(), (own, norm.weight, *layer.parameters())))
    assert all(torch.equal(*pair) for pair in zip(*grads, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_feed_forward(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = DenseFeedForward(16, 43).to(dtype)
    x, pull = random(2, ROWS // 2, 16, dtype=dtype, seed=1) * 6, random(2, ROWS // 2, 16, dtype=dtype, seed=2)

    def run() -> tuple[Tensor, ...]:
        own = x.clone().requires_grad_()
        y = layer(own)
        return y.detach(), *torch.autograd.grad((y * pull).sum(), (own, *layer.parameters()))

    check(run, dtype, monkeypatch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("packed", [False, True])
def test_rotation(packed: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    table = RotationTable(head_dim=10, theta=100.0)
    positions = torch.arange(14).flip(0).view(2, 7)
    rotation = table.at(positions, dtype=dtype) if packed else table.first(7, dtype=dtype, device=torch.device("cpu"))
    x, pull = (random(2, 7, 3, 10, dtype=dtype, seed=s) for s in (1, 2))

    def run() -> tuple[Tensor, ...]:
        own = x.clone().requires_grad_()
        y = rotate(own, rotation)
        return y.detach(), *torch.autograd.grad((y * pull).sum(), own)

    check(run, dtype, monkeypatch)


@pytest.mark.parametrize("bias", [False, True])
def test_linear_maps_of_one_input_by_finite_differences(bias: bool) -> None:
    maps = [torch.nn.Linear(3, width, bias=bias).double() for width in (4, 2)]
    x = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    maps[1].weight.requires_grad_(False)  # as an adapter's base
    for found, expected in zip(linear(x, *maps), (m(x) for m in maps), strict=True):
        assert torch.allclose(found, expected)
    assert torch.autograd.gradcheck(lambda x, *_: linear(x, *maps), (x, *(p for m in maps for p in m.parameters())))


def test_the_feed_forward_by_finite_differences() -> None:
    layer = DenseFeedForward(3, 5).double()
    x = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def run(x: Tensor, *weights: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x,))  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(run, (x, *layer.parameters()))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(value: float) -> None:
    x = torch.zeros(1, 4)
    x[0, 1] = value
    assert not kernels.norm_forward(x, None, torch.ones(4), 1e-5)[1].isfinite().all()
    assert not kernels.swiglu_forward(x, torch.ones(1, 4)).isfinite().all()
    assert not kernels.read_rows(x, torch.tensor([0]), 1.0)[0].isfinite().all()


def test_the_exponential_over_its_whole_range() -> None:
    z = torch.linspace(-86, 0, 20_001)
    found = kernels.pull_rows(
        z[None], torch.tensor([20_000]), 1.0, torch.zeros(1), -torch.ones(1), out=torch.empty(1, 20_001)
    )[0, :-1]
    want = z[:-1].double().exp()
    assert ((found.double() - want) / want).abs().max() < 4e-7


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_summed_in_pieces_are_those_of_the_whole(dtype: torch.dtype) -> None:
    x = torch.randn(10_001, generator=torch.Generator().manual_seed(0)).to(dtype)
    whole, pieces = torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    kernels.sum_bits(x, 0, whole)
    kernels.sum_bits(x[:37], 0, pieces)
    kernels.sum_bits(x[37:].contiguous(), 37, pieces)
    assert torch.equal(whole, pieces) and whole.ne(0).all()


def test_a_sum_half_way_between_two_goes_to_the_even_one() -> None:
    x = torch.tensor([[1.0, 1.0078125, -1.0, 3.0]]).bfloat16()
    add = torch.tensor([[2.0**-8, 2.0**-8, -(2.0**-8), 2.0**-7]]).bfloat16()
    total = kernels.norm_forward(x, add, torch.ones(4).bfloat16(), 1e-5)[0]
    assert total.tolist() == [[1.0, 1.015625, -1.0, 3.0]] == (x + add).tolist()
