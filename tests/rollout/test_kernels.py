"""The compiled kernels against PyTorch: the same model read both ways, samples against the sampler's own arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from aha.model.config import ModelConfig
from aha.model.decoder import Decoder, build_decoder
from aha.rollout.engine import SamplingParams
from aha.rollout.native.compiled import CompiledRunner
from aha.rollout.native.kernels import Kernels, address
from aha.rollout.native.packed import pack, unpack
from aha.rollout.native.runner import Runner
from aha.rollout.native.sampler import draw, probabilities, uniforms

DTYPES = [torch.float32, torch.bfloat16]
# Sizes that fill no vector, panel or tile; 1, 3 and 5 query heads for a key head.
SHAPES = [
    {"hidden_size": 22, "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 6, "intermediate_size": 34},
    {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 18, "intermediate_size": 70},
    {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 80, "intermediate_size": 96},
]
FAMILIES = [
    {"model_type": "qwen2"},
    {"model_type": "qwen3", "tie_word_embeddings": False},
    {"model_type": "llama", "attention_bias": True},
]
GREEDY = SamplingParams(40, temperature=0.0)


def config_of(case: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=101, num_hidden_layers=2, max_position_embeddings=256, **SHAPES[case], **FAMILIES[case]
    )


def decoder_of(config: ModelConfig) -> Decoder:
    decoder = build_decoder(config, seed=1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in decoder.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if parameter.dim() == 1 else 1.2 * noise / parameter.shape[-1] ** 0.5)
    return decoder


def prompts_of(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(0, 101, (length,), generator=generator).tolist() for length in lengths]


@torch.inference_mode()
def logits_of(runner: Runner | CompiledRunner, prompts: list[list[int]], tokens_ST: Tensor) -> Tensor:
    """Logits [1 + S, B, V] behind each prompt, and behind each of S tokens that all its rows are fed."""
    runner.begin(len(prompts), 256, GREEDY, ())
    prefixes = runner.prefill(prompts)
    runner.admit(list(range(len(prompts))), prefixes, [0] * len(prompts), [40] * len(prompts))  # type: ignore[arg-type]
    found = [torch.stack([prefix.logits_V for prefix in prefixes])]
    read: list[Tensor] = []

    def spy(logits_BV: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        read.append(logits_BV.clone())
        return torch.zeros(len(logits_BV), dtype=torch.int64), torch.zeros(len(logits_BV))

    runner._sample = spy  # type: ignore[method-assign]
    for step, token_B in enumerate(tokens_ST):
        runner._tokens.copy_(token_B)
        runner.step(len(prompts), max(map(len, prompts)) + step + 1)
    return torch.stack(found + read)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", range(3))
def test_prompts_and_steps_equal_pytorch(
    compiled: Kernels, case: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ragged prompts, some a block's length or one more; 36 steps, so that completions cross a block; odd rows."""
    monkeypatch.setattr("aha.model.product._multiplies_bf16", lambda: True)  # PyTorch's own, however slow
    config = config_of(case)
    decoder, prompts = decoder_of(config), prompts_of(1, 31, 32, 33, 70, 5, 64)
    tokens = torch.randint(0, 101, (36, len(prompts)), generator=torch.Generator().manual_seed(3))
    ours, plain = CompiledRunner(config, compiled, dtype=dtype), Runner(
        config, dtype=dtype, device=torch.device("cpu")
    )
    ours.load(decoder)
    plain.load(decoder)
    got, expected = logits_of(ours, prompts, tokens), logits_of(plain, prompts, tokens)
    assert expected.std() > 0.5
    if dtype == torch.float32:
        assert torch.allclose(got, expected, atol=1e-4)
    else:  # against the same weights in float32, no further off than PyTorch in bfloat16 is
        exact = Runner(config, dtype=torch.float32, device=torch.device("cpu"))
        exact.load(decoder.to(torch.bfloat16).to(torch.float32))
        truth = logits_of(exact, prompts, tokens)
        assert (got - truth).std() < 1.1 * (expected - truth).std() < 0.1
    scores = [torch.tensor(runner.score(prompts)[4]) for runner in (ours, plain)]
    assert torch.allclose(*scores, atol=1e-4 if dtype == torch.float32 else 0.2)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.int8])
def test_a_rows_numbers_are_the_same_bits_in_any_company_and_any_order_of_reading(
    compiled: Kernels, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(1)
    runner = CompiledRunner(config, compiled, dtype=dtype)
    runner.load(decoder_of(config))
    prompts = prompts_of(*range(1, 42))
    tokens = torch.randint(0, 101, (3, len(prompts)), generator=torch.Generator().manual_seed(3))
    together = logits_of(runner, prompts, tokens)
    alone = logits_of(runner, prompts[22:23], tokens[:, 22:23])
    assert torch.equal(together[:, 22:23], alone)
    whole = runner.prefill([prompts[40]])[0]
    for cut in (1, 29, 32, 40):
        past = runner.prefill([prompts[40][:cut]])[0].kept
        behind = [runner.extend([kept], [prompts[40][cut:]])[0] for kept in (past, whole.kept.first(cut))]
        assert all(torch.equal(other.logits_V, whole.logits_V) for other in behind)
    monkeypatch.setattr(runner, "_threads", lambda rows: 2)
    assert torch.equal(logits_of(runner, prompts, tokens), together)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.int8])
def test_what_a_row_leaves_is_the_cache_of_its_whole_text(compiled: Kernels, dtype: torch.dtype) -> None:
    """Prompts end in the middle of a block and of a pair of columns, completions cross blocks."""
    config = config_of(1)
    runner = CompiledRunner(config, compiled, dtype=dtype)
    runner.load(decoder_of(config))
    prompts = prompts_of(1, 31, 32, 45)
    tokens = torch.randint(0, 101, (37, len(prompts)), generator=torch.Generator().manual_seed(3))
    logits_of(runner, prompts, tokens)
    kept = runner.keep([3, 0, 2, 1])
    texts = [prompts[row] + tokens[:, row].tolist() for row in (3, 0, 2, 1)]
    assert [block.length for block in kept] == [len(text) for text in texts]
    behind = torch.stack([prefix.logits_V for prefix in runner.extend(kept, [[5, 6]] * 4)])
    whole = torch.stack([prefix.logits_V for prefix in runner.prefill([[*text, 5, 6] for text in texts])])
    assert torch.allclose(behind, whole, atol=1e-5 if dtype == torch.float32 else 0.1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_packing_is_undone_and_fills_up_with_zeros(dtype: torch.dtype) -> None:
    matrix = torch.randn(37, 10).to(dtype)
    panels = torch.full((3, 10 * dtype.itemsize // 4, 16), -1, dtype=torch.int32)
    pack(matrix, panels)
    assert torch.equal(unpack(panels, 37, dtype), matrix)
    assert not panels[2, :, 5:].any()


def draws_of(
    compiled: Kernels, logits_BV: Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    B, V = logits_BV.shape
    seeds, index = torch.arange(B) * 7919, torch.arange(B) % 13
    tokens, logprobs = torch.empty(B, dtype=torch.int64), torch.empty(B)
    outs = map(address, (seeds, index, tokens, logprobs))
    compiled.sample(address(logits_BV), B, V, temperature, top_k, top_p, *outs, 1)
    return tokens, logprobs


@pytest.mark.parametrize("vocab", [1, 7, 16, 511, 512, 513, 1100])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_draws_are_those_of_the_plain_sampler(compiled: Kernels, vocab: int, temperature: float) -> None:
    """The same number meets the same cumulated probabilities; where it falls on a border rounding may differ."""
    B = 3000
    logits = 3 * torch.randn(B, vocab, generator=torch.Generator().manual_seed(vocab))
    logits[::7, 1 + vocab // 2 :: 3] = -math.inf
    tokens, logprobs = draws_of(compiled, logits, temperature)
    probs = probabilities(logits, temperature=temperature, top_k=0, top_p=1.0)
    expected, _ = draw(probs, uniforms(torch.arange(B) * 7919, torch.arange(B) % 13))
    assert (tokens != expected.squeeze(-1)).sum() <= 3
    exact = (logits.double() / temperature).log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)
    assert torch.allclose(logprobs.double(), exact, atol=2e-6, rtol=1e-6) and logprobs.isfinite().all()


@pytest.mark.parametrize("vocab", [1, 16, 513, 1100])
@pytest.mark.parametrize("top_k,top_p", [(0, 0.95), (5, 1.0), (40, 0.5), (2000, 0.0), (0, 1e-9)])
def test_what_is_cut_off_is_what_the_plain_sampler_cuts_off(
    compiled: Kernels, vocab: int, top_k: int, top_p: float
) -> None:
    """Also where numbers tie: logits are of few different values."""
    B = 2000
    logits = (3 * torch.randn(B, vocab, generator=torch.Generator().manual_seed(vocab))).round(decimals=1)
    tokens, logprobs = draws_of(compiled, logits, 0.7, top_k, top_p)
    probs = probabilities(logits, temperature=0.7, top_k=top_k, top_p=top_p)
    expected, total = draw(probs, uniforms(torch.arange(B) * 7919, torch.arange(B) % 13))
    wrong = tokens != expected.squeeze(-1)
    assert wrong.sum() <= 3
    assert (probs.gather(-1, tokens[:, None]) > 0).all()
    exact = (probs.double().gather(-1, tokens[:, None]) / total).log().squeeze(-1)
    assert torch.allclose(logprobs.double()[~wrong], exact[~wrong], atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_logit_that_is_no_number_shows_in_its_rows_log_prob_alone(
    compiled: Kernels, temperature: float, bad: float
) -> None:
    logits = torch.randn(3, 37, generator=torch.Generator().manual_seed(1))
    logits[0, 5] = -math.inf
    logits[1, 4] = bad
    tokens, logprobs = draws_of(compiled, logits, temperature)
    assert logprobs.isfinite().tolist() == [True, False, True]
    assert int(tokens.min()) >= 0 and int(tokens.max()) < 37
    if temperature == 0.0:
        assert torch.equal(tokens[::2], logits[::2].argmax(-1)) and logprobs[::2].tolist() == [0.0, 0.0]
