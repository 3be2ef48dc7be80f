"""Int8 weights: the integers are those of the definition, whoever computes them; what is sampled stays near the
trainer's; every version of the weights is quantised anew; what cannot be in int8 is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from aha.errors import InvariantError, SettingError
from aha.model.config import ModelConfig
from aha.model.decoder import Decoder, build_decoder
from aha.rollout.engine import SamplingParams
from aha.rollout.native.compiled import CompiledRunner
from aha.rollout.native.engine import NativeEngine
from aha.rollout.native.int8 import OUTLIERS, multiply, quantise, quantise_rows
from aha.rollout.native.kernels import Kernels, address
from aha.rollout.native.packed import PackedWeights, pack_int8, unpack_int8
from aha.rollout.native.runner import Runner
from aha.rollout.native.weights import decoder_digest
from aha.rollout.sync import sync_weights
from aha.testing import tiny_policy

CPU = torch.device("cpu")
# Sizes that fill no vector, panel, tile or word; biases, norms of heads, an untied head.
CONFIGS = [
    ModelConfig(vocab_size=101, num_hidden_layers=2, max_position_embeddings=256, **fields)
    for fields in (
        {"model_type": "qwen2", "hidden_size": 22, "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 6}
        | {"intermediate_size": 35},
        {"model_type": "qwen3", "hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 18}
        | {"intermediate_size": 70, "tie_word_embeddings": False},
        {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 80}
        | {"intermediate_size": 96, "attention_bias": True},
    )
]


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def decoder_of(config: ModelConfig) -> Decoder:
    decoder = build_decoder(config, seed=1)
    with torch.no_grad():
        for i, parameter in enumerate(decoder.parameters()):
            noise = numbers(i, *parameter.shape)
            parameter.copy_(1 + 0.2 * noise if parameter.dim() == 1 else 1.2 * noise / parameter.shape[-1] ** 0.5)
    return decoder


def prompts_of(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(0, 101, (length,), generator=generator).tolist() for length in lengths]


def multiply_compiled(kernels: Kernels, x_BI: Tensor, numbers_OI: Tensor, step_O: Tensor) -> Tensor:
    (B, I), O = x_BI.shape, len(numbers_OI)  # noqa: E741
    panels = torch.full((-(-O // kernels.panel), -(-I // 4) + 1, kernels.panel), -1, dtype=torch.int32)
    pack_int8(numbers_OI, step_O, panels)
    rows = torch.zeros(B, -(-I // 16) * 16 + 16)
    rows[:, :I] = x_BI
    out_BO = torch.full((B, O), -1.0)
    kernels.multiply_int8(B, I, O, *map(address, (rows, panels, out_BO)))
    return out_BO


def test_a_matrix_is_quantised_by_its_largest_numbers() -> None:
    found, step = quantise(torch.tensor([[2.0, -1.0, 0.5, 0.003], [0.0, 0.0, 0.0, 0.0], [-1e-5, 1e-5, 0.0, 3e-6]]))
    assert found.tolist() == [[127, -64, 32, 0], [0, 0, 0, 0], [-127, 127, 0, 38]]  # halves go to the even one
    assert torch.allclose(step, torch.tensor([2 / 127, 0.0, 1e-5 / 127]))
    x = numbers(0, 40, 300)
    found, step = quantise(x)
    assert ((x - found * step[:, None]).abs() <= 0.5001 * step[:, None]).all()


def test_a_rows_outliers_do_not_make_the_others_coarse() -> None:
    """1,000 halves down to 7.8125, beyond which 8 of the 20 numbers lie, and which no step leaves out of reach."""
    x = torch.tensor([[1000.0] + [9.0] * OUTLIERS + [1.0] * 11, [1000.0] + [9.0] * 7 + [1.0] * 12])
    found, step = quantise_rows(x)
    near = [15.625, 7.8125]
    assert torch.equal(step, torch.tensor(near) / 127)
    assert found[0].tolist() == [round(1000 * 127 / near[0])] + [73] * 8 + [8] * 11
    assert found[1].tolist() == [round(1000 * 127 / near[1])] + [146] * 7 + [16] * 12
    assert found.max() <= 127 * 128
    wild = numbers(1, 200, 300) ** 5
    found, step = quantise_rows(wild)
    assert ((wild - found * step[:, None]).abs() <= 0.501 * step[:, None]).all()
    assert 4 < (found.abs() > 127).sum(-1).float().mean() < OUTLIERS == (found.abs() > 127).sum(-1).max()


@pytest.mark.parametrize("inputs,outputs", [(1, 1), (7, 5), (22, 33), (64, 64), (129, 70), (1536, 40)])
def test_products_are_the_exact_sums_of_the_integers(compiled: Kernels, inputs: int, outputs: int) -> None:
    """1 to 70 rows, some with outliers, one of zeros."""
    weights = quantise(numbers(1, outputs, inputs))
    panels = torch.empty(-(-outputs // compiled.panel), -(-inputs // 4) + 1, compiled.panel, dtype=torch.int32)
    pack_int8(*weights, panels)
    assert all(map(torch.equal, unpack_int8(panels, outputs, inputs), weights))
    x = numbers(2, 70, inputs)
    x[::3] **= 5
    x[4] = 0
    rows, step = quantise_rows(x)
    sums = rows.double() @ weights[0].double().t()
    expected = sums.float() * (step[:, None] * weights[1])
    assert not expected[4].any() and expected[5].any()
    assert torch.equal(multiply(x, *weights), expected)
    for count in range(1, 71):
        assert torch.equal(multiply_compiled(compiled, x[:count], *weights), expected[:count]), count


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_shows_in_its_row_and_its_output_alone(compiled: Kernels, bad: float) -> None:
    x, matrix = numbers(1, 20, 50), numbers(2, 37, 50)
    x[3, 49] = matrix[30, 7] = bad
    for made in (multiply(x, *quantise(matrix)), multiply_compiled(compiled, x, *quantise(matrix))):
        finite = made.isfinite()
        assert not finite[3].any() and not finite[:, 30].any() and int(finite.sum()) == 19 * 36
    decoder = tiny_policy().decoder
    engine = NativeEngine(decoder.config, dtype=torch.int8)
    with torch.no_grad():
        decoder.model.layers[0].mlp.down_proj.weight[0, 0] = bad
    engine.load_weights(decoder, 0)
    with pytest.raises(InvariantError, match="int8"):
        engine.generate([[1, 2]], [[0]], SamplingParams(2))


def log_probs(runner: Runner | CompiledRunner, decoder: Decoder, texts: list[list[int]]) -> Tensor:
    runner.load(decoder)
    return torch.tensor([logp for scores in runner.score(texts) for logp in scores])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_log_probs_are_near_those_of_float32_with_kernels_and_without(
    compiled: Kernels, config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random weights: at most three times as far as bfloat16 is."""
    monkeypatch.setattr("aha.model.product._multiplies_bf16", lambda: True)  # PyTorch's own, however slow
    decoder, texts = decoder_of(config), prompts_of(70, 33, 5, 64)
    exact, plain, half = (
        log_probs(Runner(config, dtype=dtype, device=CPU), decoder, texts)
        for dtype in (torch.float32, torch.int8, torch.bfloat16)
    )
    ours = log_probs(CompiledRunner(config, compiled, dtype=torch.int8), decoder, texts)
    assert exact.std() > 0.5
    for found in (plain, ours):
        gap = (found - exact).abs()
        assert 1e-3 < gap.mean() < 3 * (half - exact).abs().mean() < 0.05 and gap.max() < 0.3


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_the_digest_is_that_of_the_trainers_weights_in_int8(compiled: Kernels, config: ModelConfig) -> None:
    decoder = decoder_of(config)
    plain, ours = Runner(config, dtype=torch.int8, device=CPU), CompiledRunner(config, compiled, dtype=torch.int8)
    for runner in (plain, ours):
        runner.load(decoder)
        assert runner.weights.digest() == decoder_digest(decoder, config, dtype=torch.int8)


def test_packed_weights_are_half_of_those_in_bfloat16(compiled: Kernels) -> None:
    config = CONFIGS[2].model_copy(update={"vocab_size": 640, "hidden_size": 256, "intermediate_size": 512})
    int8, half = (
        [*weights._layers[0].values(), weights._embedding]
        for weights in (PackedWeights(config, compiled, dtype=dtype) for dtype in (torch.int8, torch.bfloat16))
    )
    assert sum(t.nbytes for t in int8) < 0.52 * sum(t.nbytes for t in half)


def test_completions_depend_on_prompt_and_seed_alone() -> None:
    config = CONFIGS[1]
    engine = NativeEngine(config, dtype=torch.int8, max_slots=5)
    engine.load_weights(decoder_of(config), 0)
    prompts, params = prompts_of(*range(1, 12)), SamplingParams(9)
    together = engine.generate(prompts, [[p, 50 + p] for p in range(11)], params)
    if isinstance(engine._runner, CompiledRunner):
        assert engine.generate(prompts[6:7], [[56]], params)[0][0] == together[6][1]
    assert engine.generate(prompts, [[p, 50 + p] for p in range(11)], params) == together
    assert together[6][0].token_ids != together[6][1].token_ids


@pytest.mark.parametrize("kernels", ["on", "off"])
def test_new_weights_are_quantised_anew_and_old_ones_are_found(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kernels == "off":
        monkeypatch.setattr("aha.rollout.native.engine.load_kernels", lambda: None)
    policy = tiny_policy()
    engine = NativeEngine(policy.config, dtype=torch.int8)
    assert sync_weights(engine, policy.decoder, version=0) < 0.1
    digest, (scores,) = engine.digest(), engine.score([[1, 2, 3, 4]])
    weights = [p for name, p in policy.decoder.named_parameters() if name.endswith(("down_proj.weight", "norm.weight"))]
    with torch.no_grad():
        for parameter in weights:
            parameter.view(-1)[0] += 1
    assert (engine.digest(), engine.score([[1, 2, 3, 4]])) == (digest, [scores])  # they are the engine's own
    assert sync_weights(engine, policy.decoder, version=1) < 0.1
    assert engine.digest() != digest and engine.score([[1, 2, 3, 4]]) != [scores]
    monkeypatch.setattr(engine, "load_weights", lambda decoder, version: None)
    for parameter in weights:
        with torch.no_grad():
            before = parameter.view(-1)[0].item()
            parameter.view(-1)[0] += 1
            with pytest.raises(InvariantError, match="version 2"):
                sync_weights(engine, policy.decoder, version=2)
            parameter.view(-1)[0] = before


def test_drafts_are_verified_with_int8_weights_too() -> None:
    config = ModelConfig(
        model_type="llama",
        vocab_size=60,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_nextn_predict_layers=1,
    )
    decoder = build_decoder(config, seed=0)
    engine = NativeEngine(config, dtype=torch.int8, speculate=1)
    assert sync_weights(engine, decoder, version=0) < 0.1
    ((drafted,),) = engine.generate([[1, 2, 3]], [[0]], SamplingParams(12))
    scores = engine.score([[1, 2, 3, *drafted.token_ids]])[0][2:]
    assert torch.allclose(torch.tensor(drafted.logprobs), torch.tensor(scores), atol=0.1)


def test_what_cannot_be_in_int8_is_refused() -> None:
    dense = CONFIGS[0]
    latent = dense.model_copy(update={"model_type": "deepseek_v3", "kv_lora_rank": 8})
    for config, device, why in (
        (latent, "cpu", "latent attention: take bfloat16"),
        (dense.model_copy(update={"n_routed_experts": 4}), "cpu", "experts: take bfloat16"),
        (dense, "cuda", "on a CPU alone"),
    ):
        with pytest.raises(SettingError, match=why):
            NativeEngine(config, dtype=torch.int8, device=device)
