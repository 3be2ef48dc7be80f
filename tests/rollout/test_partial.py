"""Completions in pieces: the text of whole ones, what each piece was drawn with, groups that wait and come back."""

from __future__ import annotations

import json

import pytest
import torch

from aha.errors import CheckpointError, InvariantError, SettingError
from aha.model.config import ModelConfig
from aha.model.decoder import Decoder, build_decoder
from aha.records import Completion, FinishReason, Group, Problem
from aha.rollout.engine import SamplingParams
from aha.rollout.native.engine import NativeEngine
from aha.rollout.partial import begin_group, from_json, is_finished, sample_piece, to_json

CONFIG = ModelConfig(
    model_type="qwen2",
    vocab_size=40,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
)
PROBLEMS = [Problem(f"p{i}", "?", "1", "chain") for i in range(3)]
PROMPTS = [[1, 2], [3], [4, 5, 6]]
PARAMS = SamplingParams(20, end_token_ids=(7, 8, 9))


@pytest.fixture
def decoder() -> Decoder:
    torch.manual_seed(0)
    decoder = build_decoder(CONFIG, seed=0)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return decoder


def engine_of(decoder: Decoder, version: int = 0) -> NativeEngine:
    engine = NativeEngine(CONFIG)
    engine.load_weights(decoder, version)
    return engine


def begin(num_samples: int = 4) -> list[Group]:
    return [begin_group(p, ids, num_samples, version=0) for p, ids in zip(PROBLEMS, PROMPTS, strict=True)]


def test_greedy_pieces_are_the_whole(decoder: Decoder) -> None:
    engine = engine_of(decoder)
    params = SamplingParams(20, temperature=0.0, end_token_ids=(7,))
    whole = engine.generate(PROMPTS, [[0], [0], [0]], params)
    groups = begin(1)
    for step in range(20):
        if all(is_finished(group, 20) for group in groups):
            break
        groups = sample_piece(engine, groups, params, 6, seed=0, step=step)
    assert step == 4  # 6 + 6 + 6 + 2 tokens
    for group, (expected,) in zip(groups, whole, strict=True):
        (said,) = group.completions
        assert said.token_ids == expected.token_ids and said.finish_reason is expected.finish_reason
        assert said.logprobs == pytest.approx(expected.logprobs, abs=1e-5)


def test_every_piece_keeps_the_log_probs_of_its_weights(decoder: Decoder) -> None:
    """Other weights for each piece: tokens and log-probs of the earlier ones stay, those of the last are the last's."""
    groups, seen = begin(), []
    for step in range(4):
        engine = engine_of(decoder, step)
        before = groups
        groups = sample_piece(engine, groups, PARAMS, 5, seed=0, step=step)
        for old, new in zip(before, groups, strict=True):
            for a, b in zip(old.completions, new.completions, strict=True):
                n = len(a.token_ids)
                assert b.token_ids[:n] == a.token_ids and b.logprobs[:n] == a.logprobs and b.policy_version == 0
                if a.finish_reason is FinishReason.END:
                    assert a == b
                else:
                    assert 1 <= len(b.token_ids) - n <= 5
                    ids = (*new.prompt_ids, *b.token_ids)
                    scored = engine.score([ids])[0][len(new.prompt_ids) - 1 + n :]
                    assert b.logprobs[n:] == pytest.approx(scored, abs=1e-5)
                    seen.append(step)
        with torch.no_grad():
            for parameter in decoder.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    assert {0, 1, 2, 3} <= set(seen) and all(is_finished(group, 20) for group in groups)
    assert {c.finish_reason for group in groups for c in group.completions} == {FinishReason.END, FinishReason.LENGTH}
    assert all(c.finish_reason is FinishReason.END or len(c.token_ids) == 20 for g in groups for c in g.completions)


def test_pieces_are_as_random_as_wholes(decoder: Decoder) -> None:
    """Two pieces in one step and two in two draw other tokens; the same again the same."""

    def second(step: int) -> tuple[int, ...]:
        engine = engine_of(decoder)
        params = SamplingParams(8)
        groups = sample_piece(engine, begin(), params, 4, seed=0, step=0)
        groups = sample_piece(engine, groups, params, 4, seed=0, step=step)
        return sum((completion.token_ids for group in groups for completion in group.completions), ())

    assert second(0) == second(0) != second(1)
    said = second(0)
    pieces = [said[i : i + 4] for i in range(0, len(said), 4)]
    assert len(set(pieces)) == len(pieces)


def test_a_group_waits_as_json(decoder: Decoder) -> None:
    groups = sample_piece(engine_of(decoder, 3), begin(), PARAMS, 5, seed=0, step=3)
    record = json.loads(json.dumps(to_json(groups)))
    assert from_json(record, {problem.key: problem for problem in PROBLEMS}) == groups
    with pytest.raises(CheckpointError, match="problem 'p0/en', which is not asked any more"):
        from_json(record, {})


def test_what_cannot_be(decoder: Decoder) -> None:
    with pytest.raises(SettingError, match="across pieces"):
        sample_piece(engine_of(decoder), begin(), SamplingParams(20, stop=("x",)), 5, seed=0, step=0)

    class Talks(NativeEngine):
        def generate(self, *args: object, **kwargs: object) -> list[list[Completion]]:
            return [[Completion((1,) * 6, (0.0,) * 6, FinishReason.LENGTH, 0)] * 4] * 3

    engine = Talks(CONFIG)
    engine.load_weights(decoder, 0)
    with pytest.raises(InvariantError, match="a piece of 6 tokens, not 1 to 5"):
        sample_piece(engine, begin(), PARAMS, 5, seed=0, step=0)
    engine.load_weights(decoder, 1)
    with pytest.raises(InvariantError, match="policy version 0, not 1"):
        sample_piece(engine, begin(), PARAMS, 5, seed=0, step=0)
