"""A sequence may have a maximum of new tokens of its own."""

from __future__ import annotations

import pytest

from aha.errors import DataError
from aha.model.decoder import Decoder
from aha.records import FinishReason
from aha.rollout.engine import SamplingParams
from aha.rollout.native import engine as engines
from aha.rollout.native.engine import NativeEngine
from aha.testing import tiny_policy

PROMPTS, SEEDS = [[1, 2, 3], [4]], [[11, 12, 13], [14, 15]]


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return tiny_policy().decoder


@pytest.mark.parametrize("max_slots", [2, 256])
def test_a_limited_sequence_is_the_begin_of_the_unlimited_one(decoder: Decoder, max_slots: int) -> None:
    engine = NativeEngine(decoder.config, max_slots=max_slots)
    engine.load_weights(decoder, 0)
    params, limits = SamplingParams(12), [[1, 12, 5], [3, 7]]
    whole, cut = engine.generate(PROMPTS, SEEDS, params), engine.generate(PROMPTS, SEEDS, params, limits=limits)
    for group, limited, own in zip(whole, cut, limits, strict=True):
        for full, short, limit in zip(group, limited, own, strict=True):
            assert short.token_ids == full.token_ids[:limit]
            assert short.logprobs == pytest.approx(full.logprobs[:limit], abs=1e-5)
            assert short.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("kernels", [True, False])
def test_rows_are_laid_out_anew_as_the_longest_comes_and_goes(
    decoder: Decoder, kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest goes first; when it ends short ones still wait, and the last of them is long again."""
    if not kernels:
        monkeypatch.setattr(engines, "load_kernels", lambda: None)
    engine = NativeEngine(decoder.config, max_slots=3)
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
def test_limits_that_cannot_be(decoder: Decoder, limits: list[list[int]], words: str) -> None:
    engine = NativeEngine(decoder.config)
    engine.load_weights(decoder, 0)
    with pytest.raises(DataError, match=words):
        engine.generate(PROMPTS, SEEDS, SamplingParams(12), limits=limits)
