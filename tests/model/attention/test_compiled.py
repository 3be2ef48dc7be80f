"""The compiled attention against the same with PyTorch in float64, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aha.model.attention import compiled
from aha.model.attention.plan import Attend, Branches, _Compiled, plan_attention, plan_branches
from aha.model.rope import Rotation, RotationTable

pytestmark = pytest.mark.skipif(not compiled.usable(torch.zeros(1)), reason="no C compiler")
HEADS = [  # query heads, key/value heads, head width, width of a value
    (4, 2, 64, 64),
    (9, 3, 64, 64),  # 32 lanes are no whole number of tokens
    (4, 1, 24, 24),
    (2, 2, 10, 6),
    (2, 1, 128, 128),
    (3, 1, 8, 13),
]
BRANCHES = [
    Branches((7, 1, 33), (5, 1, 40, 0, 3), (0, 0, 0, 1, 2)),
    Branches((64,), (64, 63), (0, 0)),
    Branches((1,), (1,), (0,)),
    Branches((130,), (), ()),
]
SEGMENTS = [[1] * 50 + [2] + [3] * 20 + [0] * 9, [1] * 3 + [2] * 77, [0] * 80]


def draw(rows: int, tokens: int, heads: tuple[int, int, int, int], dtype: torch.dtype) -> list[Tensor]:
    N, K, H, W = heads
    generator = torch.Generator().manual_seed(tokens)
    shapes = ((N, H), (K, H), (K, W), (N, W))  # the last is the gradient of what is read
    return [torch.randn(rows, tokens, *shape, generator=generator).to(dtype) for shape in shapes]


def run(attend: Attend, drawn: list[Tensor], rotation: Rotation | None) -> list[Tensor]:
    *inputs, pull = drawn
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    read = attend(*leaves, rotation)
    return [read.detach(), *torch.autograd.grad(read, leaves, pull)]


def check(attend: Attend, slow: Attend, drawn: list[Tensor], rotation: Rotation | None) -> None:
    assert isinstance(attend, _Compiled) and not isinstance(slow, _Compiled)
    dtype = drawn[0].dtype
    wide = None if rotation is None else (rotation[0].double(), rotation[1].double())
    expected = run(slow, [x.double() for x in drawn], wide)
    found = run(attend, drawn, rotation)
    tolerance = 3e-6 if dtype == torch.float32 else 2.5e-2
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype and one.shape == other.shape
        assert (one.double() - other).abs().max() <= tolerance * other.abs().max()
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    again = run(attend, drawn, rotation)
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("branches", BRANCHES, ids=str)
def test_prompts_and_what_continues_them(
    branches: Branches, heads: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    tokens, group = sum(branches.prompts) + sum(branches.continuations), heads[0] // heads[1]
    drawn = draw(1, tokens, heads, dtype)
    table = RotationTable(head_dim=heads[2], theta=100.0)
    attend, slow = (plan_branches(drawn[0].to(kind), branches, group=group) for kind in (dtype, torch.float64))
    check(attend, slow, drawn, table.at(torch.tensor([branches.positions()]), dtype=dtype))
    check(attend, slow, drawn, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("heads", HEADS[:3], ids=str)
def test_whole_rows_and_packed_ones(heads: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    segments = torch.tensor(SEGMENTS)
    drawn = draw(*segments.shape, heads, dtype)
    rotation = RotationTable(head_dim=heads[2], theta=100.0).first(80, dtype=dtype, device=segments.device)
    for given in (None, segments):
        plans = (
            plan_attention(drawn[0].to(kind), rows=3, tokens=80, group=heads[0] // heads[1], segments_BT=given)
            for kind in (dtype, torch.float64)
        )
        attend, slow = plans
        if given is not None:
            drawn[3] = drawn[3] * (given != 0)[..., None, None]
            padding = run(attend, drawn, rotation)
            assert not any(x[given == 0].any() for x in padding)  # nothing is read there, nothing learned

        def real(*args: Tensor | Rotation | None, attend: Attend = slow, given: Tensor | None = given) -> Tensor:
            read = attend(*args)  # type: ignore[arg-type]
            return read if given is None else read * (given != 0)[..., None, None]

        check(attend, real, drawn, rotation)


def test_tensors_that_are_views() -> None:
    branches = Branches((5,), (3, 9), (0, 0))
    drawn = draw(1, 17, (4, 2, 16, 16), torch.float32)
    attend = plan_branches(drawn[0], branches, group=2)
    inside = [torch.stack((x, x), -1)[..., 0] for x in drawn]
    assert not any(x.is_contiguous() for x in inside)
    for one, other in zip(run(attend, inside, None), run(attend, drawn, None), strict=True):
        assert torch.equal(one, other)


def test_a_continuation_is_read_as_if_it_were_alone() -> None:
    drawn = draw(1, 17, (4, 2, 16, 16), torch.float32)
    both = run(plan_branches(drawn[0], Branches((5,), (3, 9), (0, 0)), group=2), drawn, None)[0]
    kept = [*range(5), *range(8, 17)]
    alone = [x[:, kept] for x in drawn]
    row = run(plan_attention(alone[0], rows=1, tokens=14, group=2, segments_BT=None), alone, None)[0]
    assert torch.equal(both[:, kept], row)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(value: float) -> None:
    q, k, v, _ = draw(1, 6, (2, 1, 4, 4), torch.float32)
    k[0, 2, 0, 1] = value
    read = plan_attention(q, rows=1, tokens=6, group=2, segments_BT=None)(q, k, v)
    assert read[0, :2].isfinite().all() and not read[0, 2:].isfinite().all()
