"""Labels of steps by rollouts agree with exact arithmetic; scores of steps stand where the steps end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import pytest
import torch
from torch import nn

from aha.errors import DataError
from aha.model.heads import ProcessRewardModel, load_process_reward_model, save_process_reward_model
from aha.records import Completion, FinishReason
from aha.reward.process import StepScorer, label_steps, score_steps
from aha.reward.response import read_response
from aha.reward.steps import step_ends
from aha.rollout.engine import SamplingParams
from aha.tasks import chain
from aha.testing import byte_tokenizer, tiny_policy, word_tokenizer
from aha.train.batch import LabelledSteps, collate_steps
from aha.train.optimizer import build_adamw
from aha.train.reward_step import process_step


class Calculator:
    """Goes on from the last total that a text states, and slips in one rollout of four: exact steps, noisy labels."""

    policy_version = 0

    def __init__(self, expression: str) -> None:
        self.tokenizer, self.todo = word_tokenizer(), chain.steps(expression)
        self.sampled_tokens = self.calls = 0

    def load_weights(self, decoder: nn.Module, version: int) -> None:
        raise NotImplementedError

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        limits: Sequence[Sequence[int]] | None = None,
        done: object = None,
    ) -> list[list[Completion]]:
        self.calls += len(prompts)
        assert len({seed for own in seeds for seed in own}) == sum(map(len, seeds))  # none goes as another does
        return [[self._finish(ids, own % 4 == 0) for own in seed] for ids, seed in zip(prompts, seeds, strict=True)]

    def _finish(self, ids: Sequence[int], slips: bool) -> Completion:
        said = self.tokenizer.decode(ids).split(" ? ")[1]
        stated = [s.rpartition(" = ")[2] for s in said.split(" .") if " = " in s]
        total = int(stated[-1]) if stated else self.todo[0][0]
        for _, _, operator, operand, _ in self.todo[len(stated) :]:
            total += operand if operator == "+" else -operand
        rest = "" if "</think>" in said else "</think> "
        answer = self.tokenizer.encode(f"{rest}<answer> {min(99, max(0, total + slips))} </answer>")
        return Completion((*answer, self.tokenizer.eos_id), (0.0,) * (len(answer) + 1), FinishReason.END, 0)


def test_labels_by_rollouts_agree_with_exact_arithmetic() -> None:
    expression = "12 #1 + 5 #2 - 3 #3 + 8"
    engine = Calculator(expression)
    words = engine.tokenizer
    prompt = tuple(words.encode(f"compute {expression} ?"))
    right = chain.clean_thought(expression, "en")
    wrong = right.replace("= 14", "= 16").replace("14 #3 + 8 = 22", "16 #3 + 8 = 24")
    texts = []
    for thought, answer in ((right, 22), (wrong, 24), (right, 23)):
        ids = words.encode(f"<think> {thought} </think> <answer> {answer} </answer>")
        texts.append((prompt, (*ids, words.eos_id)))
    ends = [step_ends(words.pieces(ids)) for _, ids in texts]
    assert [words.decode([ids[e] for e in own[:-1]]) for (_, ids), own in zip(texts, ends, strict=True)] == [
        ". . . </think>"
    ] * 3

    def judge(asked: Sequence[tuple[int, tuple[int, ...]]]) -> list[bool]:
        return [read_response(words.decode(ids)).answer == "22" for _, ids in asked]

    outcomes = judge([(t, ids) for t, (_, ids) in enumerate(texts)])
    labels = label_steps(engine, texts, ends, outcomes, judge, rollouts=64, params=SamplingParams(60), seed=0)
    for (_, ids), own, chances in zip(texts, ends, labels, strict=True):
        for end, chance in zip(own[:-1], chances, strict=False):
            exact = chain.is_on_the_way(expression, words.decode(ids[: end + 1]))
            assert (chance >= 0.5) == exact and (0.6 < chance < 0.9 or chance < 0.5)
    assert [own[-1] for own in labels] == [1.0, 0.0, 0.0]  # the outcome itself
    assert labels[0][:-1] == labels[2][:-1] and engine.calls == 4 + 3  # shared beginnings are rolled out once


def test_the_exact_check_of_a_thought() -> None:
    expression = "12 #1 + 5 #2 - 3"
    says = {
        "first 12 #1 + 5 = 17 .": True,
        "first 12 #1 + 5 = 18 .": False,
        "first 12 #1 + 5 = 18 . wait 12 #1 + 5 = 17 .": True,
        "first 12 #1 + 5 #2 - 3 = 14 .": True,
        "首先 12 #1 + 5 = 17 . 然后 17 #2 - 3 = 15 .": False,
        "hmm .": None,
    }
    assert {text: chain.is_on_the_way(expression, text) for text in says} == says
    rng = Random(0)
    for language in ("en", "zh"):
        problem = chain.generate(rng, language=language)
        own = problem.meta["expression"]
        assert chain.is_on_the_way(own, chain.clean_thought(own, language)) is True


def test_steps_end_where_text_does_with_either_tokenizer() -> None:
    text = "1 + 2 = 3 .\nso 3.5\n</think> ok"
    pieces = byte_tokenizer().pieces(byte_tokenizer().encode(text))
    assert "".join(pieces) == text
    cut = ["".join(pieces[a + 1 : b + 1]) for a, b in zip((-1, *step_ends(pieces)), step_ends(pieces), strict=False)]
    assert "".join(cut) == text and cut[0] == "1 + 2 = 3 ." and cut[-2:] == ["</think>", " ok"]
    words = word_tokenizer()
    ids = words.encode("first 1 #1 + 2 = 3 . </think> <answer> 3 </answer>")
    assert "".join(words.pieces([*ids, words.eos_id])).strip() == words.decode(ids)
    assert step_ends(()) == ()


def scored_model() -> ProcessRewardModel:
    model = ProcessRewardModel(tiny_policy().decoder)
    with torch.no_grad():
        model.score.copy_(torch.linspace(-0.2, 0.2, model.score.numel()).view(1, -1))
        model.doubt.copy_(torch.tensor([[0.03, -0.05, 0.01]]))
        model.bias.fill_(0.03)
    return model


def test_scores_are_those_of_each_beginning_alone() -> None:
    model, words = scored_model(), word_tokenizer()
    prompt = tuple(words.encode("compute 1 #1 + 2 ?"))
    said = ["first 1 #1 + 2 = 3 . then 4 . 5", "6", "first 7 . </think> 8 ."]
    texts = [(prompt, tuple(words.encode(text))) for text in said]
    scores = score_steps(model, words, texts)
    assert [len(own) for own in scores] == [3, 1, 3]
    for (_, ids), own in zip(texts, scores, strict=True):
        for end, score in zip(step_ends(words.pieces(ids)), own, strict=True):
            whole = torch.tensor([[*prompt, *ids[: end + 1]]])
            hidden = model.decoder(whole)[0, -1]
            logprobs = model.decoder.logits(model.decoder(whole)[0]).log_softmax(-1)
            surprises = [-logprobs[len(prompt) + t - 1, ids[t]].item() for t in range(end + 1)]
            doubts = torch.tensor([max(surprises), math.log(max(surprises) + 1e-4), sum(surprises)])
            logit = hidden @ model.score[0] + doubts @ model.doubt[0] + model.bias[0]
            expected = torch.sigmoid(10 * logit).item()
            assert score == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kernels", ["on", "off"])
def test_a_scorer_that_keeps_what_it_read_scores_alike_and_reads_once(
    kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernels == "off":
        monkeypatch.setattr("aha.rollout.native.engine.load_kernels", lambda: None)
    model, words = scored_model(), word_tokenizer()
    scorer = StepScorer(model, words, room=1 << 20)
    first, second = (tuple(words.encode(f"compute {n} #1 + 2 ?")) for n in (1, 3))
    said = ["first 1 #1 + 2 = 3 .", "first 1 #1 + 2 = 3 . then 4 .", "first 1 #1 + 2 = 3 . then 4 . 5", "first 7 ."]
    one, more, whole, other = (tuple(words.encode(text)) for text in said)
    tokens = 0
    for texts, read in (
        ([(first, one), (first, other), (second, one)], len(first) + len(second) + 2 * len(one) + len(other)),
        ([(first, more), (first, whole)], len(more) + len(whole) - 2 * len(one)),  # neither knows of the other yet
        ([(first, whole)], 1),  # the last token of a text is always read
    ):
        got, expected = scorer(texts), score_steps(model, words, texts)
        assert [len(own) for own in got] == [len(own) for own in expected]
        assert [s for own in got for s in own] == pytest.approx([s for own in expected for s in own], abs=1e-5)
        tokens += read
        assert scorer.read_tokens == tokens
    small = StepScorer(model, words, room=1)  # nothing fits: every text is read whole, its prompt once before
    assert small([(first, more)])[0] == pytest.approx(scorer([(first, more)])[0], abs=1e-5)


def test_a_step_of_training_starts_at_log_two_and_does_not_see_the_split() -> None:
    texts = [LabelledSteps((1, 2, 3, 4), 1, (1, 3), (1.0, 0.25)), LabelledSteps((5, 6), 1, (1,), (0.0,))]
    policy = tiny_policy()
    fresh = ProcessRewardModel(policy.decoder)
    figures = process_step(
        fresh, build_adamw(fresh, lr=0.0), collate_steps(texts, token_budget=99), lr=0.0, max_grad_norm=1.0
    )
    assert figures["loss"] == pytest.approx(0.693147, abs=1e-5) and figures["steps"] == 3
    assert figures["accuracy"] == pytest.approx(1 / 3)  # a score of one half says "right"
    model = scored_model()
    logits = torch.stack([
        model(torch.tensor([list(t.ids)]), torch.tensor([1]), torch.tensor([0]), torch.tensor([p]))[0]
        for t in texts for p in t.places
    ])  # fmt: skip
    labels = torch.tensor([1.0, 0.25, 0.0])
    by_hand = -(labels * torch.sigmoid(logits).log() + (1 - labels) * torch.sigmoid(-logits).log()).mean().item()
    for budget in (99, 1):
        batches = collate_steps(texts, token_budget=budget)
        figures = process_step(model, build_adamw(model, lr=0.0), batches, lr=0.0, max_grad_norm=1.0)
        assert figures["loss"] == pytest.approx(by_hand, abs=1e-5)
    with pytest.raises(DataError, match="text 0"):
        collate_steps([LabelledSteps((1, 2), 1, (2,), (0.5,))], token_budget=9)
    with pytest.raises(DataError, match="a prompt has a token at least"):
        collate_steps([LabelledSteps((1, 2), 0, (1,), (0.5,))], token_budget=9)


def test_a_process_reward_model_survives_the_disk(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = scored_model()
    save_process_reward_model(model, tiny_policy().config, tmp_path)
    again, _ = load_process_reward_model(tmp_path)
    for name in ("score", "doubt", "bias"):
        assert torch.equal(getattr(again, name), getattr(model, name))
