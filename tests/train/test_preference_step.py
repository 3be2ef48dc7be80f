from __future__ import annotations

import math

import pytest
import torch
from tiny_training import gradient_of, sgd, tiny_config, tiny_decoder, weights_of

from aha.errors import DataError, InvariantError
from aha.model.decoder import build_decoder
from aha.model.heads import RewardModel
from aha.train.batch import collate_labelled, collate_preference
from aha.train.optimizer import build_adamw
from aha.train.reward_step import label_step, preference_step

PAIRS = [([1, 2, 3], [4, 5]), ([6], [7, 8, 9, 10]), ([2, 2], [3, 3, 3]), ([11, 4], [5])]


def scored_model() -> RewardModel:
    model = RewardModel(tiny_decoder(0))
    with torch.no_grad():
        model.score.copy_(torch.linspace(-0.5, 0.7, 8, dtype=torch.float64))
    return model


def test_metrics_equal_the_pairs_one_by_one() -> None:
    model = scored_model()
    with torch.no_grad():
        sides = zip(*PAIRS, strict=True)
        a, b = ([model(torch.tensor([x]), torch.tensor([len(x) - 1])).item() for x in side] for side in sides)
        margins = [chosen - rejected for chosen, rejected in zip(a, b, strict=True)]
    batches = collate_preference(PAIRS, token_budget=10)
    assert len(batches) > 1
    metrics = preference_step(model, sgd(model), batches, lr=0.0, max_grad_norm=1.0)
    assert metrics["loss"] == pytest.approx(sum(math.log1p(math.exp(-m)) for m in margins) / 4)
    assert metrics["accuracy"] == sum(m > 0 for m in margins) / 4
    assert metrics["margin"] == pytest.approx(sum(margins) / 4)
    assert metrics["pairs"] == 4


def test_a_margin_is_what_a_chosen_text_has_to_score_more() -> None:
    model, wanted = scored_model(), [0.0, 0.5, 1.0, 2.0]
    with torch.no_grad():
        sides = zip(*PAIRS, strict=True)
        a, b = ([model(torch.tensor([x]), torch.tensor([len(x) - 1])).item() for x in side] for side in sides)
    batches = collate_preference(PAIRS, token_budget=10, margins=wanted)
    metrics = preference_step(model, sgd(model), batches, lr=0.0, max_grad_norm=1.0)
    losses = [math.log1p(math.exp(m - (x - y))) for x, y, m in zip(a, b, wanted, strict=True)]
    assert metrics["loss"] == pytest.approx(sum(losses) / 4)


def test_labels_by_hand_and_a_score_above_zero_says_yes() -> None:
    model, texts, labels = scored_model(), [text for pair in PAIRS for text in pair], [1.0, 0.0, 0.75, 0.25] * 2
    with torch.no_grad():
        scores = [model(torch.tensor([x]), torch.tensor([len(x) - 1])).item() for x in texts]
    assert any(0 < score < 0.5 for score in scores) and any(score < 0 for score in scores)
    batches = collate_labelled(texts, labels, token_budget=4)
    metrics = label_step(model, sgd(model), batches, lr=0.0, max_grad_norm=1.0)
    chances = [1 / (1 + math.exp(-score)) for score in scores]
    losses = [-y * math.log(p) - (1 - y) * math.log(1 - p) for p, y in zip(chances, labels, strict=True)]
    assert metrics["loss"] == pytest.approx(sum(losses) / 8, rel=1e-6) and metrics["texts"] == 8
    assert metrics["accuracy"] == sum((s > 0) == (y > 0.5) for s, y in zip(scores, labels, strict=True)) / 8


def test_gradient_is_the_same_for_any_split() -> None:
    gradients = []
    for budget in (1000, 10, 1):
        model = scored_model()
        batches = collate_preference(PAIRS, token_budget=budget)
        preference_step(model, sgd(model), batches, lr=0.0, max_grad_norm=math.inf)
        gradients.append(gradient_of(model))
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-9, atol=1e-12)


def test_learns_which_text_is_preferred_from_log_two() -> None:
    """The preferred text is the one that ends in 7; pairs that were not trained on are judged right, too."""
    model = RewardModel(build_decoder(tiny_config(), seed=0))
    optimizer = build_adamw(model, lr=0.0)
    batches = collate_preference([([a, 7], [a, 8]) for a in range(6)], token_budget=1000)
    history = [preference_step(model, optimizer, batches, lr=0.02, max_grad_norm=1.0) for _ in range(40)]
    assert history[0]["loss"] == pytest.approx(math.log(2)) and history[-1]["loss"] < 0.1
    unseen = collate_preference([([a, 7], [a, 8]) for a in range(9, 13)], token_budget=1000)
    assert preference_step(model, optimizer, unseen, lr=0.0, max_grad_norm=1.0)["accuracy"] == 1


def test_nan_stops_before_the_weights_change_and_names_the_pairs() -> None:
    model = scored_model()
    with torch.no_grad():
        model.decoder.model.embed_tokens.weight[11] = float("nan")
    before = weights_of(model).clone()
    batches = collate_preference(PAIRS, token_budget=1)
    with pytest.raises(InvariantError, match=r"\(pairs 3\)"):
        preference_step(model, sgd(model), batches, lr=1.0, max_grad_norm=1.0)
    torch.testing.assert_close(weights_of(model), before, rtol=0, atol=0, equal_nan=True)


def test_no_pairs_is_an_error() -> None:
    model = scored_model()
    with pytest.raises(DataError, match="without preference pairs"):
        preference_step(model, sgd(model), [], lr=1.0, max_grad_norm=1.0)
