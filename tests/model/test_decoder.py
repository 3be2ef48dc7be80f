from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from aha.model.config import ModelConfig
from aha.model.decoder import Decoder, build_decoder, build_empty_decoder


def draw_ids(config: ModelConfig, *shape: int) -> Tensor:
    return torch.randint(0, config.vocab_size, shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("tokens", [11, 80])  # one for each way attention is computed
def test_logits_and_gradients_equal_transformers(
    config: ModelConfig, build_reference: Callable[[ModelConfig], Any], tokens: int
) -> None:
    reference = build_reference(config)
    decoder = build_decoder(config, seed=0)
    # transformers has shared experts of width 0 where there are none.
    decoder.load_state_dict({name: tensor for name, tensor in reference.state_dict().items() if tensor.numel()})
    ids = draw_ids(config, 2, tokens)
    ours, theirs = decoder.logits(decoder(ids)), reference(ids).logits
    assert torch.allclose(ours, theirs, atol=1e-5)
    ours.logsumexp(-1).mean().backward()
    theirs.logsumexp(-1).mean().backward()
    expected = {name: parameter.grad for name, parameter in reference.named_parameters() if parameter.numel()}
    assert {name for name, _ in decoder.named_parameters()} == set(expected)
    for name, parameter in decoder.named_parameters():
        assert torch.allclose(parameter.grad, expected[name], atol=1e-5), name


def test_what_stands_right_has_no_effect(decoder: Decoder) -> None:
    ids = draw_ids(decoder.config, 2, 12)
    changed = ids.clone()
    changed[:, 7:] = 0
    with torch.no_grad():
        long, short = decoder(changed), decoder(ids[:, :7])
    assert torch.allclose(long[:, :7], short, atol=1e-5)
    assert not torch.allclose(decoder(ids)[:, 7:], long[:, 7:], atol=1e-3)


def pack(lengths: list[list[int]], tokens: int) -> tuple[Tensor, Tensor]:
    segments, positions = torch.zeros(2, len(lengths), tokens, dtype=torch.long)
    for b, row in enumerate(lengths):
        start = 0
        for number, length in enumerate(row, start=1):
            segments[b, start : start + length] = number
            positions[b, start : start + length] = torch.arange(length)
            start += length
    return segments, positions


@pytest.mark.parametrize("lengths", [[[5, 7, 6], [9, 8]], [[15, 1, 1], [2, 2, 1]]])
def test_packed_documents_equal_separate_ones(decoder: Decoder, lengths: list[list[int]]) -> None:
    ids = draw_ids(decoder.config, 2, 20)
    segments, positions = pack(lengths, 20)
    packed = decoder(ids, positions, segments)
    assert packed.isfinite().all()
    separate = torch.zeros_like(packed)
    for b, row in enumerate(lengths):
        start = 0
        for length in row:
            separate[b, start : start + length] = decoder(ids[b : b + 1, start : start + length])[0]
            start += length
    real = segments != 0
    assert torch.allclose(packed[real], separate[real], atol=1e-5)
    parameters = [p for name, p in decoder.named_parameters() if name != "lm_head.weight"]
    grads: list[list[Tensor]] = []
    for states in (packed, separate):
        states[real].cos().sum().backward()
        grads.append([p.grad for p in parameters if p.grad is not None])
        decoder.zero_grad()
    for ours, theirs in zip(*grads, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert len(grads[0]) == len(parameters)


def test_given_positions_equal_default_ones(decoder: Decoder) -> None:
    ids = draw_ids(decoder.config, 2, 9)
    with torch.no_grad():
        assert torch.equal(decoder(ids, torch.arange(9).expand(2, 9)), decoder(ids))


def test_fresh_weights_depend_on_the_seed_alone(config: ModelConfig) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = build_decoder(config, seed=4).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    second, other = build_decoder(config, seed=4).state_dict(), build_decoder(config, seed=5).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_spread_of_fresh_weights() -> None:
    config = ModelConfig(vocab_size=300, hidden_size=128, intermediate_size=256, num_hidden_layers=8,
                         num_attention_heads=4, num_key_value_heads=2, model_type="qwen2")
    state = build_decoder(config, seed=0).state_dict()
    assert state["model.layers.0.self_attn.q_proj.weight"].std().item() == pytest.approx(128**-0.5, rel=0.03)
    for deep, inputs in (("self_attn.o_proj", 128), ("mlp.down_proj", 256)):  # smaller by sqrt(16)
        assert state[f"model.layers.3.{deep}.weight"].std().item() == pytest.approx(inputs**-0.5 / 4, rel=0.03)
    assert state["model.layers.1.self_attn.k_proj.bias"].eq(0).all()
    assert state["model.norm.weight"].eq(1).all()


def test_tied_head_is_the_embedding(config: ModelConfig) -> None:
    for decoder in (build_decoder(config, seed=0), copy.deepcopy(build_decoder(config, seed=0)),
                    build_decoder(config, seed=0).to(torch.float64)):
        assert (decoder.head_weight is decoder.model.embed_tokens.weight) == config.tie_word_embeddings
    assert all(tensor.is_meta for tensor in build_empty_decoder(config, device="meta").state_dict().values())


def test_bfloat16_round_trip_keeps_positions_exact(tiny_decoder: Decoder) -> None:
    ids = draw_ids(tiny_decoder.config, 1, 100)
    coarse = copy.deepcopy(tiny_decoder).to(torch.bfloat16)
    coarse(ids)
    back = coarse.to(torch.float32)
    expected = copy.deepcopy(tiny_decoder)
    expected.load_state_dict(back.state_dict())
    assert torch.equal(back(ids), expected(ids))


def test_training_works_after_inference_mode(tiny_decoder: Decoder) -> None:
    ids = draw_ids(tiny_decoder.config, 1, 10)
    with torch.inference_mode():
        tiny_decoder(ids)
    tiny_decoder(ids).sum().backward()
    assert tiny_decoder.model.embed_tokens.weight.grad is not None


def test_gradient_by_finite_differences() -> None:
    config = ModelConfig(model_type="qwen3", vocab_size=7, hidden_size=4, intermediate_size=6, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=1, head_dim=4)
    decoder = build_decoder(config, seed=0, dtype=torch.float64)
    names, values = zip(*decoder.named_parameters(), strict=True)
    ids = draw_ids(config, 1, 5)
    generator = torch.Generator().manual_seed(2)
    moved = [(value + torch.randn(value.shape, generator=generator)).detach().requires_grad_() for value in values]

    def run(*parameters: Tensor) -> Tensor:
        return torch.func.functional_call(decoder, dict(zip(names, parameters, strict=True)), (ids,))

    assert torch.autograd.gradcheck(run, moved)
