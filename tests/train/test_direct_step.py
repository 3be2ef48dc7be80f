"""Preference optimisation and point-wise scores as updates: the pairs one by one, any split, learning, and errors."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_training import gradient_of, sgd, tiny_config, tiny_decoder, weights_of

from aha.errors import DataError, InvariantError
from aha.model.decoder import Decoder, build_decoder
from aha.model.heads import RewardModel
from aha.objective.direct import PREFERENCES
from aha.train.batch import (
    CompletionPair,
    PolicyBatch,
    PolicyRow,
    collate_completion_pairs,
    collate_labelled,
    collate_policy,
)
from aha.train.direct_step import compute_sequence_logprobs, direct_step
from aha.train.optimizer import build_adamw
from aha.train.reward_step import label_step

PAIRS = [
    CompletionPair([1, 2, 3], [4, 5], [6]),
    CompletionPair([6], [7, 8, 9, 10], [7, 3]),
    CompletionPair([2, 2], [3], [3, 3, 3]),
    CompletionPair([1, 2, 3], [11, 4], [5, 9, 1, 2, 8]),
]


def others(budget: int) -> list[PolicyBatch]:
    """Each prompt with the next pair's completion."""
    following = [*PAIRS[1:], PAIRS[0]]
    rows = [
        PolicyRow(a.prompt_ids, b.chosen_ids, 0.0, [0.0] * len(b.chosen_ids))
        for a, b in zip(PAIRS, following, strict=True)
    ]
    return collate_policy(rows, weights=[1.0] * len(rows), token_budget=budget)


def slow_logprob(decoder: Decoder, prompt: list[int], completion: list[int]) -> float:
    ids = [*prompt, *completion]
    with torch.no_grad():
        logits = decoder(torch.tensor([ids]))[0] @ decoder.head_weight.T
    logp = logits.log_softmax(-1)
    return sum(float(logp[len(prompt) + i - 1, token]) for i, token in enumerate(completion))


@pytest.mark.parametrize("name", PREFERENCES)
def test_metrics_are_those_of_the_pairs_one_by_one(name: str) -> None:
    row, now, reference = PREFERENCES[name], tiny_decoder(0), tiny_decoder(1)
    batches = collate_completion_pairs(PAIRS, token_budget=12)
    assert len(batches) > 1
    metrics = direct_step(
        now, sgd(now), batches, row=row, reference_R=compute_sequence_logprobs(reference, batches),
        others=others(9), others_reference_R=compute_sequence_logprobs(reference, others(9)), lr=0.0, max_grad_norm=1.0,
    )  # fmt: skip

    def score(prompt: list[int], completion: list[int]) -> float:
        value = slow_logprob(now, prompt, completion)
        if name != "simpo":
            value -= slow_logprob(reference, prompt, completion)
        return value / len(completion) if name in ("ipo", "simpo") else value

    chosen = [score(p.prompt_ids, p.chosen_ids) for p in PAIRS]
    rejected = [score(p.prompt_ids, p.rejected_ids) for p in PAIRS]
    z = max(0.0, sum(score(PAIRS[i].prompt_ids, PAIRS[(i + 1) % 4].chosen_ids) for i in range(4)) / 4)

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    losses = {
        "dpo": [-math.log(sigmoid(0.1 * (a - b))) for a, b in zip(chosen, rejected, strict=True)],
        "ipo": [(a - b - 5) ** 2 for a, b in zip(chosen, rejected, strict=True)],
        "simpo": [-math.log(sigmoid(2 * (a - b) - 1)) for a, b in zip(chosen, rejected, strict=True)],
        "kto": [
            (2 - sigmoid(0.1 * (a - z)) - sigmoid(0.1 * (z - b))) / 2 for a, b in zip(chosen, rejected, strict=True)
        ],
    }[name]
    assert metrics["loss"] == pytest.approx(sum(losses) / 4)
    assert metrics["accuracy"] == sum(a > b for a, b in zip(chosen, rejected, strict=True)) / 4
    assert metrics["rewards/chosen"] == pytest.approx(row.beta * sum(chosen) / 4)
    assert metrics["margin"] == pytest.approx(row.beta * (sum(chosen) - sum(rejected)) / 4)
    assert metrics["logps/rejected"] == pytest.approx(
        sum(slow_logprob(now, p.prompt_ids, p.rejected_ids) for p in PAIRS) / 4
    )
    assert metrics["tokens"] == sum(len(p.chosen_ids) + len(p.rejected_ids) for p in PAIRS)
    if name == "kto":
        assert metrics["baseline"] == pytest.approx(z)


@pytest.mark.parametrize("name", PREFERENCES)
def test_the_gradient_is_the_same_for_any_split(name: str) -> None:
    reference, gradients = tiny_decoder(1), []
    for budget in (1000, 14, 1):
        now = tiny_decoder(0)
        batches = collate_completion_pairs(PAIRS, token_budget=budget)
        direct_step(
            now, sgd(now), batches, row=PREFERENCES[name], reference_R=compute_sequence_logprobs(reference, batches),
            others=others(budget), others_reference_R=compute_sequence_logprobs(reference, others(budget)),
            lr=0.0, max_grad_norm=math.inf,
        )  # fmt: skip
        gradients.append(gradient_of(now))
    assert gradients[0].norm() > 1e-3
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", PREFERENCES)
def test_the_margin_of_pairs_never_trained_on_rises(name: str) -> None:
    """Completions that begin with 7 are preferred, whatever the prompt says."""
    row = PREFERENCES[name]
    decoder = build_decoder(tiny_config(), seed=0)
    train = collate_completion_pairs([CompletionPair([a], [7, 1], [8, 1]) for a in range(6)], token_budget=1000)
    held_out = collate_completion_pairs([CompletionPair([a], [7, 1], [8, 1]) for a in range(9, 13)], token_budget=1000)
    elsewhere = collate_policy(
        [PolicyRow([a], [1, 2], 0.0, [0.0, 0.0]) for a in range(6)], weights=[1.0] * 6, token_budget=1000
    )
    references = [compute_sequence_logprobs(decoder, batches) for batches in (train, held_out, elsewhere)]
    optimizer = build_adamw(decoder, lr=0.0)

    def step(batches: list[PolicyBatch], reference: torch.Tensor, lr: float) -> dict[str, float]:
        return direct_step(
            decoder, optimizer, batches, row=row, reference_R=reference, others=elsewhere,
            others_reference_R=references[2], lr=lr, max_grad_norm=1.0,
        )  # fmt: skip

    before = step(held_out, references[1], 0.0)
    for _ in range(30):
        step(train, references[0], 0.02)
    after = step(held_out, references[1], 0.0)
    assert after["accuracy"] == 1
    assert after["margin"] > before["margin"] + 0.1
    assert after["loss"] < before["loss"]


def test_what_a_row_needs_has_to_be_there() -> None:
    decoder, batches = tiny_decoder(0), collate_completion_pairs(PAIRS, token_budget=100)
    for name in ("dpo", "kto"):
        with pytest.raises(InvariantError, match=name):
            direct_step(decoder, sgd(decoder), batches, row=PREFERENCES[name], lr=1.0, max_grad_norm=1.0)
    with pytest.raises(DataError, match="without preference pairs"):
        direct_step(decoder, sgd(decoder), [], row=PREFERENCES["simpo"], lr=1.0, max_grad_norm=1.0)
    with pytest.raises(DataError, match="pair 1 has an empty"):
        collate_completion_pairs([PAIRS[0], CompletionPair([1], [], [2])], token_budget=100)


def test_a_reference_that_is_no_number_stops_before_the_weights_change() -> None:
    decoder = tiny_decoder(0)
    batches = collate_completion_pairs(PAIRS, token_budget=1)
    reference = compute_sequence_logprobs(decoder, batches)
    reference[5] = math.nan
    before = weights_of(decoder).clone()
    with pytest.raises(InvariantError, match=r"rows 4, 5"):
        direct_step(decoder, sgd(decoder), batches, row=PREFERENCES["dpo"], reference_R=reference, lr=1.0,
                    max_grad_norm=1.0)  # fmt: skip
    torch.testing.assert_close(weights_of(decoder), before, rtol=0, atol=0)


TEXTS, LABELS = [[1, 2, 3], [4, 5], [6], [7, 8, 9, 10]], [1.0, 0.0, 1.0, 0.25]


def test_labelled_texts_one_by_one_and_in_any_split() -> None:
    gradients = []
    for budget in (1000, 6, 1):
        model = RewardModel(tiny_decoder(0))
        with torch.no_grad():
            model.score.copy_(torch.linspace(-0.5, 0.7, 8, dtype=torch.float64))
            scores = [model(torch.tensor([x]), torch.tensor([len(x) - 1])).item() for x in TEXTS]
        batches = collate_labelled(TEXTS, LABELS, token_budget=budget)
        metrics = label_step(model, sgd(model), batches, lr=0.0, max_grad_norm=math.inf)
        losses = [math.log1p(math.exp(-s)) + (1 - y) * s for s, y in zip(scores, LABELS, strict=True)]
        assert metrics["loss"] == pytest.approx(sum(losses) / 4)
        assert metrics["accuracy"] == sum((s > 0) == (y > 0.5) for s, y in zip(scores, LABELS, strict=True)) / 4
        gradients.append(gradient_of(model))
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-9, atol=1e-12)


def test_labelled_texts_that_cannot_be() -> None:
    model = RewardModel(tiny_decoder(0))
    with pytest.raises(DataError, match="without labelled texts"):
        label_step(model, sgd(model), [], lr=0.0, max_grad_norm=1.0)
    with pytest.raises(DataError, match="text 1 is empty"):
        collate_labelled([[1], []], [1.0, 0.0], token_budget=10)
    with torch.no_grad():
        model.decoder.model.embed_tokens.weight[6] = math.nan
    with pytest.raises(InvariantError, match=r"\(texts 2\)"):
        label_step(model, sgd(model), collate_labelled(TEXTS, LABELS, token_budget=1), lr=0.0, max_grad_norm=1.0)
