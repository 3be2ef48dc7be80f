"""BF16 on a processor without instructions for it: float32 inside, one rounding at the end, as with them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aha.model import product as module
from aha.model.config import ModelConfig
from aha.model.decoder import Decoder, build_decoder
from aha.model.product import add_product, count_widened, is_widened, product, weight_gradient
from aha.train.batch import collate_packed
from aha.train.nll_step import compute_nll_loss

CONFIG = ModelConfig(
    vocab_size=40,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
CPU = torch.device("cpu")


@pytest.fixture(params=[True, False], ids=["with instructions", "without"])
def multiplies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(module, "_multiplies_bf16", lambda: request.param)
    return bool(request.param)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def test_products_are_sums_in_float32_rounded_once(multiplies: bool) -> None:
    assert is_widened(torch.bfloat16, CPU) is not multiplies
    assert not is_widened(torch.float32, CPU)
    assert not is_widened(torch.bfloat16, torch.device("meta"))
    x, weight, grad = normal(24, 64, seed=0), normal(20, 64, seed=1), normal(24, 20, seed=2)
    wide_x, wide_weight, wide_grad = x.double(), weight.double(), grad.double()
    half_ulp = 2.0**-8
    for found, exact in (
        (product(x, weight), wide_x @ wide_weight.T),
        (product(grad, weight.T), wide_grad @ wide_weight),
        (weight_gradient(grad, x), wide_grad.T @ wide_x),
        (add_product(grad.clone(), x, weight), wide_grad + wide_x @ wide_weight.T),
    ):
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.double(), exact, rtol=1.01 * half_ulp, atol=1e-4)


def test_what_is_added_to_is_the_same_tensor(multiplies: bool) -> None:
    to = normal(24, 20, seed=2)
    assert add_product(to, normal(24, 64, seed=0), normal(20, 64, seed=1)) is to


def test_gradients_of_a_model_are_those_of_float32_to_bf16s_precision(multiplies: bool) -> None:
    documents = [([*range(1, 30)], [1.0] * 29), ([*range(39, 5, -1)], [1.0] * 34)]
    batch = collate_packed(documents, width=64)[0]

    def gradients(decoder: Decoder) -> Tensor:
        compute_nll_loss(decoder, batch, total_weight=61.0)[0].backward()  # type: ignore[no-untyped-call]
        return torch.cat([parameter.grad.flatten().double() for parameter in decoder.parameters()])

    narrow = build_decoder(CONFIG, seed=0, dtype=torch.bfloat16)
    wide = build_decoder(CONFIG, seed=0)
    wide.load_state_dict(narrow.state_dict())
    found, exact = gradients(narrow), gradients(wide)
    assert (found - exact).norm() < 0.03 * exact.norm()


def test_pieces_of_what_is_widened_make_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_multiplies_bf16", lambda: False)
    x, weight, grad = normal(24, 64, seed=0), normal(20, 64, seed=1), normal(24, 20, seed=2)

    def products() -> tuple[Tensor, ...]:
        return product(x, weight), weight_gradient(grad, x), add_product(grad.clone(), x, weight)

    whole = products()
    for most in (1, 64, 7 * 64, 20 * 64):
        monkeypatch.setattr(module, "_WIDE_NUMBERS", most)
        for piece, of in zip(products(), whole, strict=True):
            torch.testing.assert_close(piece, of, rtol=2.0**-7, atol=1e-4)
    monkeypatch.setattr(module, "_WIDE_INNER", 7)  # 64 inputs are more than twice that, and so are 20 and 24
    for most in (1, 21, 2**17):
        monkeypatch.setattr(module, "_WIDE_NUMBERS", most)
        for piece, of in zip(products(), whole, strict=True):
            torch.testing.assert_close(piece, of, rtol=2.0**-7, atol=1e-4)
    empty = x[:0]
    assert product(empty, weight).shape == (0, 20)
    assert not weight_gradient(grad[:0], empty).any()


def test_what_a_widened_product_holds_by_hand() -> None:
    """Both factors and what they make where all is little; else a piece of each, of 2^17 numbers."""
    assert count_widened(2, 3, 4) == 2 * 4 + 3 * 4 + 2 * 3
    # 1,024 inputs: 128 outputs at a time, and as many rows
    assert count_widened(10_000, 10_000, 1024) == 128 * 1024 + 128 * 1024 + 128 * 128
    # more inputs, as those of the gradient of a vocabulary's logits: 512 at a time, and not few rows and outputs
    assert count_widened(10_000, 10_000, 49_152) == 256 * 512 + 256 * 512 + 256 * 256
