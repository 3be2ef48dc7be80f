"""The public fakes do what they say."""

from __future__ import annotations

import pytest
import torch

from aha.errors import DataError, InvariantError
from aha.records import FinishReason
from aha.rollout.engine import Engine, SamplingParams
from aha.rollout.group import sample_groups
from aha.testing import ScriptedEngine, byte_tokenizer, few_problems, tiny_policy


def test_a_script_is_replayed_in_turn_and_says_why_it_ended() -> None:
    engine: Engine = ScriptedEngine({(5, 9): [(7, 2), (8, 8, 8, 2)]})
    params = SamplingParams(3, end_token_ids=(2,))
    with pytest.raises(InvariantError, match="load_weights"):
        engine.generate([(5, 9)], [[0]], params)
    engine.load_weights(tiny_policy().decoder, 4)
    (group,) = sample_groups(engine, few_problems()[:1], [(5, 9)], 3, params, 0, 0)
    assert [c.token_ids for c in group.completions] == [(7, 2), (8, 8, 8), (7, 2)]
    reasons = [c.finish_reason for c in group.completions]
    assert reasons == [FinishReason.END, FinishReason.LENGTH, FinishReason.END]
    assert {c.policy_version for c in group.completions} == {4}


def test_a_script_that_does_not_fit_is_an_error() -> None:
    engine = ScriptedEngine({(5,): [(7,)]})
    engine.load_weights(tiny_policy().decoder, 0)
    with pytest.raises(DataError, match="no completion"):
        engine.generate([(6,)], [[0]], SamplingParams(3, end_token_ids=(2,)))
    with pytest.raises(DataError, match="neither ends"):
        engine.generate([(5,)], [[0]], SamplingParams(3, end_token_ids=(2,)))


def test_the_tiny_policy_runs_and_depends_on_its_seed() -> None:
    policy, other = tiny_policy(), tiny_policy(seed=1)
    ids = torch.tensor([policy.renderer.prompt(few_problems()[0].prompt)])
    with torch.no_grad():
        logits = [p.decoder.logits(p.decoder(ids)) for p in (policy, other)]
    assert logits[0].shape == (1, ids.shape[1], policy.tokenizer.vocab_size)
    assert not torch.equal(*logits)
    assert tiny_policy(tokenizer=byte_tokenizer(), template="{question}").config.vocab_size == 258
