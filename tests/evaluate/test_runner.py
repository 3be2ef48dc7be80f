"""Scripted completions are read, judged and summed as by hand."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from aha.errors import VerifierError
from aha.evaluate.runner import (
    Judged,
    count_errors,
    general_score,
    language_shares,
    read_groups,
    reasoning_metrics,
)
from aha.records import Problem, Status, Verdict
from aha.rollout.engine import SamplingParams
from aha.rollout.group import sample_groups
from aha.tasks import chain, general
from aha.tasks.checkers import CHECKERS, Checker
from aha.tasks.words import say
from aha.testing import ScriptedEngine, tiny_policy
from aha.tokens.render import Renderer

POLICY = tiny_policy()


def judged(problems: list[Problem], said: list[list[str]], *, renderer: Renderer = POLICY.renderer) -> list[Judged]:
    """``said[p]`` are the completions of problem p, each ended by the end token."""
    tokenizer = renderer.tokenizer
    prompts = [renderer.prompt(p.prompt) for p in problems]
    script = {
        prompt: [[*tokenizer.encode(text), tokenizer.eos_id] for text in texts]
        for prompt, texts in zip(prompts, said, strict=True)
    }
    engine = ScriptedEngine(script)
    engine.load_weights(POLICY.decoder, 0)
    params = SamplingParams(60, end_token_ids=tokenizer.end_token_ids)
    return read_groups(sample_groups(engine, problems, prompts, len(said[0]), params, 0, 0), renderer)


def tagged(answer: str, think: str = "first = 5 .") -> str:
    return f"<think> {think} </think> <answer> {answer} </answer>"


def two_chains() -> list[Problem]:
    first, second = (chain.generate(random.Random(seed), language="en") for seed in (1, 2))
    assert first.prompt != second.prompt
    return [first, second]


def test_metrics_by_hand() -> None:
    problems = two_chains()
    right, wrong = problems[0].answer, str((int(problems[0].answer) + 1) % 100)
    said = [
        [tagged(right), tagged(wrong), tagged(wrong), tagged(right, say("first = 5 .", "zh"))],
        [tagged(problems[1].answer)] * 3 + ["5"],
    ]
    metrics = reasoning_metrics(judged(problems, said), votes=[1, 2, 4])
    assert metrics["pass@1"]["value"] == pytest.approx((2 / 4 + 3 / 4) / 2)
    assert metrics["pass@4"]["value"] == 1.0
    assert metrics["cons@4"]["value"] == 1.0  # a tie of two and two goes to the first seen, which is right
    assert metrics["format"]["value"] == pytest.approx(7 / 8)
    assert metrics["language"]["value"] == pytest.approx((3 / 4 + 1) / 2)  # "5" has no word to judge
    assert [row["k"] for row in metrics["votes"]] == [1, 2, 4]
    assert metrics["votes"][1]["value"] == pytest.approx((1 / 2 + 1.0) / 2)
    lengths = [[len(POLICY.tokenizer.encode(text)) + 1 for text in texts] for texts in said]
    assert metrics["length"]["value"] == pytest.approx(sum(map(sum, lengths)) / 8)
    assert metrics["by_task"]["chain"]["pass@1"] == metrics["pass@1"]
    assert metrics["verifier_errors"] == 0
    assert metrics["by_problem"]["pass@1"] == [2 / 4, 3 / 4]
    assert metrics["by_problem"]["cons@4"] == [1.0, 1.0]
    assert metrics["by_problem"]["length"] == pytest.approx([sum(own) / 4 for own in lengths])
    for name in ("pass@1", "cons@4", "pass@4", "format", "language", "length"):
        assert metrics[name]["low"] <= metrics[name]["value"] <= metrics[name]["high"]


def test_general_prompts_have_a_rule_score() -> None:
    problems = [general.generate(random.Random(seed), language="en") for seed in (1, 2)]
    said = [[tagged(general.answers(p, random.Random(0))[1])] * 2 for p in problems]
    said[1][1] = tagged("0")
    assert general_score(judged(problems, said)).value == pytest.approx(0.75)


def test_a_template_that_opens_the_thinking_is_known_to_the_reader() -> None:
    renderer = Renderer(POLICY.tokenizer, "User : {question} ? Assistant : <think>")
    problem = two_chains()[0]
    (read,) = judged([problem], [[f"first = 5 . </think> <answer> {problem.answer} </answer>"]], renderer=renderer)
    assert read.responses[0].well_formed
    assert read.responses[0].think == "first = 5 ."


def test_a_verifier_that_breaks_stops_the_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(problem: Problem, answer: str) -> bool:
        raise ValueError("broken")

    monkeypatch.setitem(CHECKERS, "chain", Checker(broken, chain.vote_key))
    with pytest.raises(VerifierError, match="2 of 2.*broken"):
        reasoning_metrics(judged(two_chains(), [[tagged("5")]] * 2), votes=[1])


def test_one_failure_in_twenty_is_counted_and_one_in_nineteen_stops() -> None:
    failed, right = Verdict("accuracy", Status.ERROR, 0.0, "broken"), Verdict("accuracy", Status.RIGHT, 1.0)
    assert count_errors([failed] + [right] * 19) == 1
    with pytest.raises(VerifierError, match="1 of 19"):
        count_errors([failed] + [right] * 18)


def test_a_language_that_no_rule_tells_has_no_share() -> None:
    problem = two_chains()[0]
    (read,) = judged([problem], [[tagged("5"), tagged("5", say("first = 5 .", "zh"))]])
    other = replace(read, problem=replace(problem, language="fr"))
    assert language_shares([read, other]) == [0.5]
