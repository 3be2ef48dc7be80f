"""The embedding's gradient is what autograd makes of a plain table, whoever else has one in the weight."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from aha.model.embedding import TiedEmbedding, UntiedEmbedding, build_embedding
from aha.testing import measure_peak_memory

IDS = torch.tensor([[3, 1, 3], [0, 3, 5]])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_gradient_of_two_passes(tied: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    plain = torch.randn(6, 4, dtype=dtype).requires_grad_()
    embedding = TiedEmbedding.from_pretrained(plain.detach().clone(), freeze=False)
    pull = torch.randn(2, 3, 6 if tied else 4, dtype=dtype)
    for _ in range(2):
        for read, weight in ((F.embedding(IDS, plain), plain), (embedding(IDS), embedding.weight)):
            ((read @ weight.T if tied else read) * pull).sum().backward()
    assert embedding.weight.grad is not None and plain.grad is not None and not embedding.weight.grad.is_sparse
    torch.testing.assert_close(embedding.weight.grad, plain.grad)


@pytest.mark.parametrize("kind", [TiedEmbedding, UntiedEmbedding])
@pytest.mark.parametrize("passes", [1, 2])
def test_a_frequent_tokens_gradient_is_summed_in_float32(kind: type[torch.nn.Embedding], passes: int) -> None:
    """One by one in BF16 the sum of 3,000 equal rows stops at 256 of them; PyTorch's own is 256 times an addend."""
    embedding = kind.from_pretrained(torch.zeros(6, 4, dtype=torch.bfloat16), freeze=False)
    ids = torch.tensor([2] * 3_000 + [5])
    for _ in range(passes):
        embedding(ids).sum().backward()
    assert embedding.weight.grad is not None
    wanted = torch.zeros(6, 4)
    wanted[2], wanted[5] = 3_000 * passes, passes
    torch.testing.assert_close(embedding.weight.grad.float(), wanted, rtol=0.005, atol=0)
    plain = torch.zeros(6, 4, dtype=torch.bfloat16, requires_grad=True)
    F.embedding(ids, plain).sum().backward()
    assert plain.grad is not None and plain.grad[2, 0] < 300


def test_which_one_a_decoder_has() -> None:
    assert type(build_embedding(torch.zeros(6, 4), tied=True)) is UntiedEmbedding  # too small to be worth while
    assert type(build_embedding(torch.zeros(2**17, 4), tied=True)) is TiedEmbedding
    table = torch.randn(6, 4)
    assert torch.equal(build_embedding(table, tied=False)(IDS), table[IDS])


def test_a_frozen_table_has_none() -> None:
    assert not TiedEmbedding.from_pretrained(torch.randn(6, 4))(IDS).requires_grad


def test_the_heads_gradient_is_not_made_twice() -> None:
    embedding = TiedEmbedding.from_pretrained(torch.randn(20_000, 16), freeze=False)
    table = embedding.weight.nbytes

    def backward() -> None:
        F.linear(embedding(IDS), embedding.weight).sum().backward()

    assert measure_peak_memory(backward) < 1.5 * table  # that of the head alone, which stays
