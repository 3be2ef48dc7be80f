"""The rewards of a stage are those with a weight, each for its own problems; a bad template is found at once."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from aha.errors import CheckpointError, InvariantError, SettingError
from aha.model.heads import RewardModel, save_reward_model
from aha.records import Problem, Status, Verdict
from aha.reward.response import Response
from aha.reward.rubric import Judge, each, score
from aha.stages.rewarding import (
    Length,
    Weights,
    build_rewards,
    check_known_good,
    is_reasoning,
    length_judge,
    load_preferences,
)
from aha.testing import byte_tokenizer, few_problems, tiny_policy
from aha.tokens.render import R1_ZERO_TEMPLATE, Renderer
from aha.util.files import write_json_atomic

META = {"kind": "harm", "thing": "big cat", "verb": "steal"}
HARM = Problem("g", "how to steal the big cat", "", "general", meta=META)
HELP = dataclasses.replace(HARM, meta={**META, "kind": "help", "verb": "feed"})


def build(weights: Weights, *, step: int = 0, **preferences: Judge):  # type: ignore[no-untyped-def]
    return build_rewards(weights, preferences, preference_start=0.75, seed=1, step=step)


def half(problem: Problem, response: Response) -> Verdict:
    return Verdict("half", Status.WRONG, 0.5)


def test_a_weight_of_zero_leaves_a_reward_out() -> None:
    assert [r.name for r in build(Weights())] == ["accuracy", "format"]
    assert [r.name for r in build(Weights(accuracy=0.0, format=0.0, random=1.0))] == ["random"]
    everything = build(Weights(language=0.3, general=1.0, helpful=1.0, safe=1.0), helpful=each(half), safe=each(half))
    assert {r.name: r.start for r in everything if r.start} == {"helpful": 0.75, "safe": 0.75}


def test_a_completion_earns_the_sum_of_its_weighted_rewards() -> None:
    problem = few_problems()[0]
    right, wrong = Response("first", problem.answer, True), Response("首先 so", "0 0", True)
    rewards = build(Weights(accuracy=1.0, format=0.1, language=0.3))
    scored = score(rewards, [problem] * 3, [right, wrong, Response("", None, False)], progress=0.0)
    # 1 + 0.1 + 0.3; 0 + 0.1 + 0.3 / 2, as one of two words is English; nothing
    assert scored.total == pytest.approx([1.4, 0.25, 0.0])
    assert scored.parts["format"] == [1.0, 1.0, 0.0]


def test_every_problem_has_its_judges() -> None:
    everything = build(Weights(general=1.0, helpful=1.0, safe=1.0), helpful=each(half), safe=each(half))
    judges = {p.id + p.meta.get("kind", ""): {r.name for r in everything if r.applies(p)} for p in (HARM, HELP)}
    assert judges == {"gharm": {"format", "general", "safe"}, "ghelp": {"format", "general", "helpful"}}
    for problem in few_problems():
        if is_reasoning(problem):
            assert {r.name for r in everything if r.applies(problem)} == {"accuracy", "format"}


def test_a_general_prompt_without_a_rule_has_preferences_alone() -> None:
    own = dataclasses.replace(HELP, meta={})
    everything = build(Weights(general=1.0, helpful=1.0), helpful=each(half))
    assert {r.name for r in everything if r.applies(own)} == {"format", "helpful"}


def test_the_length_reward_leaves_out_what_could_not_be_judged() -> None:
    """Two problems of three completions, judged in one call; one verifier fails, and its length is in no range."""
    calls = []

    def judged(problems: list[Problem], responses: list[Response]) -> list[Verdict]:
        calls.append(len(problems))
        status = {"right": Status.RIGHT, "wrong": Status.WRONG, "error": Status.ERROR}
        return [Verdict("accuracy", status[str(r.answer)], float(r.answer == "right")) for r in responses]

    one, other = few_problems()[2:4]
    said = [("right", 10), ("wrong", 20), ("error", 90), ("right", 30), ("right", 10), ("wrong", 20)]
    responses = [Response("", answer, True, tokens=tokens) for answer, tokens in said]
    judge = length_judge(Length(kind="kimi"), max_new_tokens=100, accuracy=judged)
    verdicts = judge([one] * 3 + [other] * 3, responses)
    # first group: 0.5 - 0 / 10, then min(0, 0.5 - 10 / 10); second: right at 30, 10, wrong in the middle
    assert [v.score for v in verdicts if v.status is not Status.ERROR] == [0.5, -0.5, -0.5, 0.5, 0.0]
    assert [v.status is Status.ERROR for v in verdicts] == [False, False, True, False, False, False]
    assert calls == [6] and {v.name for v in verdicts} == {"length"}
    overlong = length_judge(Length(kind="overlong", cache=0.2), max_new_tokens=100, accuracy=judged)
    assert [v.score for v in overlong([one] * 3, responses[:3])] == [0.0, 0.0, -0.5] and calls == [6]
    meant = length_judge(Length(kind="overlong", cache=0.2, longest=25), max_new_tokens=100, accuracy=judged)
    assert [v.score for v in meant([one] * 3, responses[:3])] == [0.0, 0.0, -1.0]


def test_a_problem_in_two_languages_is_two_groups() -> None:
    one = few_problems()[2]
    problems = [one] * 2 + [dataclasses.replace(one, language="zh")] * 2
    responses = [Response("", one.answer, True, tokens=tokens) for tokens in (10, 30, 100, 300)]
    judge = length_judge(Length(kind="kimi"), max_new_tokens=1000)
    assert [v.score for v in judge(problems, responses)] == [0.5, -0.5, 0.5, -0.5]


def test_what_length_may_cost_is_less_than_a_right_answer() -> None:
    assert Length(kind="l1-exact", alpha=2.0).alpha == 2.0
    with pytest.raises(SettingError, match="alpha=2.0: less than 1 with kind 'efficient'"):
        Length(kind="efficient", alpha=2.0)
    for weight in (math.nan, math.inf):
        with pytest.raises(SettingError, match="accuracy"):
            Weights(accuracy=weight)


def test_the_coin_is_fair_knows_nothing_and_differs_from_step_to_step() -> None:
    problems, responses = [HELP] * 400, [Response("", str(i), True) for i in range(400)]

    def toss(step: int, said: list[Response]) -> list[float]:
        (reward,) = build(Weights(accuracy=0.0, format=0.0, random=1.0), step=step)
        return [v.score for v in reward.judge(problems, said)]

    assert toss(0, responses) == toss(0, responses[::-1]) != toss(1, responses)
    assert 160 < sum(toss(0, responses)) < 240
    (reward,) = build(Weights(accuracy=0.0, format=0.0, random=1.0))
    first, second = ([v.score for v in reward.judge(problems, responses)] for _ in range(2))
    assert first == toss(0, responses) and first != second, "groups that are asked again have other tosses"


def test_a_preference_weight_without_its_model_is_an_error() -> None:
    with pytest.raises(SettingError, match="weights.safe is 1.0.*no input 'safe'"):
        build(Weights(safe=1.0), helpful=each(half))


@pytest.mark.parametrize(
    "template", [R1_ZERO_TEMPLATE, "User : {question} ? Assistant :", "{question} <think>\n", "{question}"]
)
def test_a_possible_template_passes(template: str) -> None:
    for problem in few_problems():
        check_known_good(build(Weights()), problem, Renderer(byte_tokenizer(), template))


@pytest.mark.parametrize("template", ["{question} <answer>", "{question} <think> </think>\n\n"])
def test_a_template_that_no_completion_can_satisfy_is_found(template: str) -> None:
    renderer = Renderer(byte_tokenizer(), template)
    with pytest.raises(InvariantError, match="known-good answer gets"):
        check_known_good(build(Weights()), few_problems()[0], renderer)
    check_known_good(build(Weights(accuracy=0.0, format=0.0, random=1.0)), few_problems()[0], renderer)


def test_a_gold_that_its_own_checker_refuses_is_found() -> None:
    bad = dataclasses.replace(few_problems()[0], answer="fourteen")
    with pytest.raises(InvariantError, match="accuracy 0.0"):
        check_known_good(build(Weights()), bad, tiny_policy().renderer)


def test_a_preference_model_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    policy = tiny_policy()
    save_reward_model(RewardModel(policy.decoder), policy.config, tmp_path / "model")
    policy.tokenizer.save(tmp_path / "model")
    write_json_atomic(tmp_path / "result.json", {"metrics": {"offset": 0.5}})
    assert set(load_preferences({"helpful": tmp_path}, policy.renderer)) == {"helpful"}
    other = Renderer(byte_tokenizer(), "{question}")
    with pytest.raises(CheckpointError, match="vocabulary"):
        load_preferences({"helpful": tmp_path}, other)
