"""A step that writes where the last one did is the same step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aha.model.config import ModelConfig
from aha.model.decoder import build_decoder
from aha.rollout.engine import Completion, SamplingParams
from aha.rollout.native import matrix
from aha.rollout.native.engine import NativeEngine
from aha.rollout.native.runner import Runner
from aha.rollout.native.weights import decoder_digest

SHAPE: dict[str, Any] = {
    "vocab_size": 128, "hidden_size": 192, "intermediate_size": 320, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 256, "rms_norm_eps": 1e-2,
}  # fmt: skip
LONG = SamplingParams(max_new_tokens=60, end_token_ids=())
MODELS = {
    "biases of queries, keys, values": ModelConfig(model_type="qwen2", **SHAPE),
    "norms of queries and keys": ModelConfig(model_type="qwen3", **SHAPE),
    "a bias of the output": ModelConfig(model_type="llama", attention_bias=True, **SHAPE),
    "a query to a key": ModelConfig(model_type="llama", **{**SHAPE, "num_key_value_heads": 6}),
    "a feed-forward without panels of 64": ModelConfig(model_type="llama", **{**SHAPE, "intermediate_size": 72}),
}


@pytest.fixture(autouse=True)
def _panels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "_panels_pay", lambda weight: True)


def randomised(config: ModelConfig, seed: int = 0) -> nn.Module:
    """Biases and norms are numbers that a mistake would show."""
    decoder = build_decoder(config, seed=0)
    generator = torch.Generator().manual_seed(seed)
    for parameter in decoder.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return decoder


def run(config: ModelConfig, rows: int, *, in_place: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, log-probs and the cache after prompts of unequal length and steps that lose rows and gain columns."""
    decoder = randomised(config)
    runner = Runner(config, dtype=torch.float32, device=torch.device("cpu"))
    runner.load(decoder)
    assert runner.weights.are_by_panels
    assert runner.weights.digest() == decoder_digest(decoder, config)
    runner.weights.are_by_panels = in_place
    runner.begin(rows, 80, LONG)
    prompts = [[1 + (i * i + j) % 100 for j in range(2 + i % 4)] for i in range(rows)]
    runner.admit(range(rows), runner.prefill(prompts), range(rows), [60] * rows)
    for step in range(50):
        runner.step(rows if step < 20 else -(-rows // 2), 8 + step)
    assert (runner._space is not None) == in_place
    found = runner.collect(range(-(-rows // 2)))
    return torch.tensor([t for t, _ in found]), torch.tensor([p for _, p in found]), runner._arena.clone()


@pytest.mark.parametrize("rows", [1, 5, 131])
@pytest.mark.parametrize("model", MODELS)
def test_in_place_samples_as_out_of_place(model: str, rows: int) -> None:
    tokens, logprobs, cache = run(MODELS[model], rows, in_place=True)
    others, theirs, their_cache = run(MODELS[model], rows, in_place=False)
    assert torch.equal(tokens, others)
    torch.testing.assert_close(logprobs, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cache, their_cache, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_in_place_is_what_the_decoder_computes(model: str) -> None:
    config = MODELS[model]
    tokens, logprobs, _ = run(config, 3, in_place=True)
    for i, (said, own) in enumerate(zip(tokens.tolist(), logprobs, strict=True)):
        prompt = [1 + (i * i + j) % 100 for j in range(2 + i % 4)]
        decoder = randomised(config)
        with torch.no_grad():
            logits_TV = decoder.logits(decoder(torch.tensor([prompt + said])))[0, len(prompt) - 1 : -1]
        expected = logits_TV.log_softmax(-1).gather(-1, torch.tensor(said)[:, None])[:, 0]
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-4)


def generate(monkeypatch: pytest.MonkeyPatch, *, in_place: bool) -> list[Completion]:
    """Of an engine without kernels: more prompts than slots, so that rows end, move and are admitted; then the same
    with other weights and longer prompts."""
    monkeypatch.setattr("aha.rollout.native.engine.load_kernels", lambda: None)
    config = MODELS["norms of queries and keys"]
    engine = NativeEngine(config, max_slots=5)
    found: list[Completion] = []
    for version, length in enumerate((3, 40)):
        engine.load_weights(randomised(config, seed=version), version)
        engine._runner.weights.are_by_panels = in_place
        prompts = [[1 + (7 * i + j) % 100 for j in range(length + i)] for i in range(4)]
        limits = [[3 + 11 * i, 40 - 9 * i, 5] for i in range(4)]
        groups = engine.generate(prompts, [[10 * i, 10 * i + 1, 10 * i + 2] for i in range(4)], LONG, limits=limits)
        assert (engine._runner._space is not None) == in_place
        found += [completion for group in groups for completion in group]
    return found


def test_rows_that_end_and_follow_one_another_are_sampled_as_out_of_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for own, other in zip(generate(monkeypatch, in_place=True), generate(monkeypatch, in_place=False), strict=True):
        assert own.token_ids == other.token_ids and own.finish_reason == other.finish_reason
        torch.testing.assert_close(torch.tensor(own.logprobs), torch.tensor(other.logprobs), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_what_a_step_left_is_not_read_by_the_next() -> None:
    config = MODELS["norms of queries and keys"]
    decoder, said = randomised(config), []
    for spoilt in (False, True):
        runner = Runner(config, dtype=torch.float32, device=torch.device("cpu"))
        runner.load(decoder)
        runner.begin(2, 40, SamplingParams(max_new_tokens=30, end_token_ids=()))
        runner.admit(range(2), runner.prefill([[1, 2, 3], [4, 5]]), range(2), [30] * 2)
        for _ in range(20):
            runner.step(2, 30)
            space = runner._space
            assert space is not None
            for memory in (space.x_BD, space.size_B1, space.normed_BD, space.heads_PBW, space.scores, space.weights,
                           space.read, space.gate_up_PBW, space.made_BF, space.added_PBW):  # fmt: skip
                memory.fill_(float("nan") if spoilt else 0.0)
        said.append(runner.collect(range(2)))
    assert said[0] == said[1]
    assert torch.tensor([logprobs for _, logprobs in said[0]]).isfinite().all()
