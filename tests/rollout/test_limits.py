"""A sequence may have a maximum of new tokens of its own."""

from __future__ import annotations

import pytest

from aha.errors import DataError
from aha.model.config import ModelConfig
from aha.model.decoder import build_decoder
from aha.records import FinishReason
from aha.rollout.engine import SamplingParams
from aha.rollout.native import engine as engines
from aha.rollout.native.engine import NativeEngine

CONFIG = ModelConfig(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=64,
)
PROMPTS, SEEDS = [[1, 2, 3], [4]], [[11, 12, 13], [14, 15]]


@pytest.mark.parametrize("max_slots", [2, 256])
def test_a_limited_sequence_is_the_begin_of_the_unlimited_one(max_slots: int) -> None:
    engine = NativeEngine(CONFIG, max_slots=max_slots)
    engine.load_weights(build_decoder(CONFIG, seed=0), 0)
    params, limits = SamplingParams(12), [[1, 12, 5], [3, 7]]
    whole, cut = engine.generate(PROMPTS, SEEDS, params), engine.generate(PROMPTS, SEEDS, params, limits=limits)
    for group, limited, own in zip(whole, cut, limits, strict=True):
        for full, short, limit in zip(group, limited, own, strict=True):
            assert short.token_ids == full.token_ids[:limit]
            assert short.logprobs == pytest.approx(full.logprobs[:limit], abs=1e-5)
            assert short.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("kernels", [True, False])
def test_rows_are_laid_out_anew_as_the_longest_comes_and_goes(kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest goes first; when it ends short ones still wait, and the last of them is long again."""
    if not kernels:
        monkeypatch.setattr(engines, "load_kernels", lambda: None)
    config = CONFIG.model_copy(update={"max_position_embeddings": 256})
    decoder = build_decoder(config, seed=0)
    engine = NativeEngine(config, max_slots=3)
    engine.load_weights(decoder, 0)
    seeds = [[7 * p + g for g in range(5)] for p in range(2)]
    limits = [[200, 3, 5, 4, 6], [70, 4, 150, 5, 3]]
    groups = engine.generate(PROMPTS, seeds, SamplingParams(200), limits=limits)
    for prompt, group, own in zip(PROMPTS, groups, limits, strict=True):
        for completion, limit in zip(group, own, strict=True):
            assert len(completion.token_ids) == limit
            scored = engine.score([[*prompt, *completion.token_ids]])[0][len(prompt) - 1 :]
            assert completion.logprobs == pytest.approx(scored, abs=1e-5)


@pytest.mark.parametrize(
    ("limits", "words"),
    [([[1, 2, 0], [1, 1]], "limit 0"), ([[1, 2, 13], [1, 1]], "limit 13"), ([[1, 2], [1, 1]], r"\[2, 2\]")],
)
def test_limits_that_cannot_be(limits: list[list[int]], words: str) -> None:
    engine = NativeEngine(CONFIG)
    engine.load_weights(build_decoder(CONFIG, seed=0), 0)
    with pytest.raises(DataError, match=words):
        engine.generate(PROMPTS, SEEDS, SamplingParams(12), limits=limits)
