"""A preference model as a judge: what it reads, that its score is bounded, and that batching changes nothing."""

from __future__ import annotations

import math

import pytest
import torch

from aha.model.heads import RewardModel
from aha.records import Problem, Status
from aha.reward.learned import judge_ids, learned_judge, pad_right, text_to_judge
from aha.reward.response import Response
from aha.testing import tiny_policy

PROBLEM = Problem("g", "who are you", "", "general")
RESPONSES = [
    Response("who am i .", "i am aha .", True),
    Response("", None, False),
    Response("who am i . this is fine .", "sorry .", True),
]


def make() -> tuple[RewardModel, object]:
    policy = tiny_policy()
    model = RewardModel(policy.decoder)
    with torch.no_grad():
        model.score.normal_(generator=torch.Generator().manual_seed(0))
    return model, policy.renderer


def test_helpfulness_reads_the_answer_and_safety_everything() -> None:
    assert [text_to_judge(r, "answer") for r in RESPONSES] == ["i am aha .", "", "sorry ."]
    assert text_to_judge(RESPONSES[0], "everything") == "who am i . i am aha ."
    assert text_to_judge(RESPONSES[1], "everything") == ""


def test_the_judge_is_the_sigmoid_of_the_models_score_for_each_response_alone() -> None:
    policy = tiny_policy()
    model, _ = make()
    judge = learned_judge("helpful", model, policy.renderer, "answer", offset=0.3)
    verdicts = judge([PROBLEM] * 3, RESPONSES)
    assert verdicts[1].score == 0.0
    assert verdicts[1].status is Status.WRONG
    for i in (0, 2):
        ids = judge_ids(policy.renderer, PROBLEM, text_to_judge(RESPONSES[i], "answer"))
        with torch.no_grad():
            value = float(model(torch.tensor([ids]), torch.tensor([len(ids) - 1])))
        assert verdicts[i].score == pytest.approx(1 / (1 + math.exp(0.3 - value)), abs=1e-6)
        assert 0.0 < verdicts[i].score < 1.0
        assert (verdicts[i].status is Status.RIGHT) == (verdicts[i].score > 0.5)


def test_nothing_to_read_needs_no_model() -> None:
    model, _ = make()
    judge = learned_judge("safe", model, tiny_policy().renderer, "everything")
    assert [v.score for v in judge([PROBLEM], [RESPONSES[1]])] == [0.0]


def test_a_score_that_is_no_number_is_a_failure_of_the_judge() -> None:
    model, _ = make()
    with torch.no_grad():
        model.score.fill_(math.nan)
    judge = learned_judge("safe", model, tiny_policy().renderer, "answer")
    assert [v.status for v in judge([PROBLEM] * 2, RESPONSES[:2])] == [Status.ERROR, Status.WRONG]


def test_padding_keeps_the_last_real_token() -> None:
    ids, last = pad_right([(1, 2, 3), (4,)], 9)
    assert ids.tolist() == [[1, 2, 3], [4, 9, 9]]
    assert last.tolist() == [2, 0]
