"""A matrix multiplied by panels that threads share is the same matrix, and the same product."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from aha.model.config import ModelConfig
from aha.model.decoder import build_decoder
from aha.rollout.engine import SamplingParams
from aha.rollout.native import matrix
from aha.rollout.native.matrix import Floats, Panels
from aha.rollout.native.runner import Runner
from aha.rollout.native.weights import decoder_digest


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def filled(kind: type[Floats] | type[Panels], weight_OI: Tensor, width: int) -> Floats | Panels:
    made = kind(*weight_OI.shape, torch.empty, width=width)
    with made.rewrite() as plain:
        plain.copy_(weight_OI)
    return made


@pytest.mark.parametrize("kind", [Floats, Panels])
@pytest.mark.parametrize("rows", [1, 3, 128, 129])
def test_products_are_those_of_the_weight(kind: type[Floats] | type[Panels], rows: int) -> None:
    weight_OI, x_BI, bias_O = numbers(96, 40), numbers(rows + 1, 40)[1:], numbers(96)
    made = filled(kind, weight_OI, 32)
    expected = F.linear(x_BI.double(), weight_OI.double()).float()
    torch.testing.assert_close(made.of(x_BI), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made.of(x_BI, bias_O), expected + bias_O, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made.parts(x_BI), expected.view(rows, 3, 32), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made.parts(x_BI, bias_O), (expected + bias_O).view(rows, 3, 32), rtol=1e-5, atol=1e-5)
    to_BO = numbers(rows, 96)
    before = to_BO.clone()
    total = made.add(to_BO, x_BI)
    torch.testing.assert_close(total, before + expected, rtol=1e-5, atol=1e-5)
    assert total.is_contiguous() and torch.equal(to_BO, before)


def test_panels_read_back_what_was_written_and_written_again() -> None:
    weight_OI = numbers(96, 40)
    made = filled(Panels, weight_OI, 32)
    assert torch.equal(made.plain(), weight_OI) and torch.equal(made.read()[0][1], weight_OI)
    with made.rewrite() as plain:
        plain.copy_(weight_OI.flip(0))
    assert torch.equal(made.plain(), weight_OI.flip(0))
    torch.testing.assert_close(made.of(torch.eye(40)), weight_OI.flip(0).t())


def test_panels_are_for_matrices_that_split_and_are_not_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "_panels_pay", lambda weight: True)
    shapes = (128, 8), (100, 8), (1 << 15, 64), (1 << 15, 65)
    kinds = [type(matrix.floats(*shape, torch.empty, width=64)) for shape in shapes]
    assert kinds == [Panels, Floats, Panels, Floats]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("latent", [True, False])
def test_a_sampler_by_panels_samples_as_one_without(monkeypatch: pytest.MonkeyPatch, tied: bool, latent: bool) -> None:
    shape = dict(vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
    extra = dict(kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=16, v_head_dim=16) if latent else {}
    config = ModelConfig(
        model_type="deepseek_v3" if latent else "qwen2", num_key_value_heads=4 if latent else 2,
        max_position_embeddings=256, tie_word_embeddings=tied, **shape, **extra,
    )  # fmt: skip
    decoder = build_decoder(config, seed=0)
    said = []
    for pays in (True, False):
        monkeypatch.setattr(matrix, "_panels_pay", lambda weight, pays=pays: pays)
        runner = Runner(config, dtype=torch.float32, device=torch.device("cpu"))
        runner.load(decoder)
        assert isinstance(runner.weights.head, Panels) == pays
        assert runner.weights.digest() == decoder_digest(decoder, config)
        runner.begin(4, 40, SamplingParams(max_new_tokens=20, end_token_ids=()))
        prefixes = runner.prefill([[1, 2, 3], [4, 5, 6, 7]] * 2)
        runner.admit(range(4), prefixes, range(4), [20] * 4)
        for _ in range(19):
            runner.step(4, 24)
        said.append(runner.collect(range(4)))
    for (tokens, logprobs), (others, theirs) in zip(*said, strict=True):
        assert tokens == others
        torch.testing.assert_close(torch.tensor(logprobs), torch.tensor(theirs), rtol=1e-5, atol=1e-5)
