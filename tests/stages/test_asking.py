"""Which problems a stage asks: shares over many steps, what is asked again, and what a stopped stage goes on from."""

from __future__ import annotations

import collections
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from aha.data.pool import Choice
from aha.errors import DataError, InvariantError, SettingError
from aha.records import Completion, FinishReason, Group, Problem
from aha.reward.rubric import Scored
from aha.stages.asking import Asking
from aha.stages.rollout import Rollout

SETS = [[Problem(f"{name}/{i}", f"{i}", f"{i}", "number") for i in range(40)] for name in "abc"]
GENERAL = [Problem(f"g/{i}", f"{i}", "", "general") for i in range(40)]


def asking_of(**changes: Any) -> Asking:
    settings: dict[str, Any] = {"replay": 0.0, "prompts": 8, "steps": 40, "general_share": 0.25, "general_start": 0.0}
    return Asking(SETS, GENERAL, choice=Choice(), **settings | changes)


def asked_by(asking: Asking, steps: Sequence[int], *, count: int = 8) -> list[list[str]]:
    return [[p.id for p in asking.ask(count, [], seed=0, step=step, number=0)] for step in steps]


def answered(right: Mapping[str, float], *, cut: int = 0) -> Rollout:
    """Two completions of each problem, of all of which the first ``cut`` were cut; ``right`` has problem: accuracy."""
    problems = [problem for own in SETS for problem in own if problem.id in right]
    reasons = [FinishReason.LENGTH if i < cut else FinishReason.END for i in range(2 * len(problems))]
    said = [Completion((1,), (-1.0,), reason, 0) for reason in reasons]
    scores = [right[problem.id] for problem in problems for _ in range(2)]
    return Rollout(
        groups=[Group(p, (1,), (said[2 * i], said[2 * i + 1])) for i, p in enumerate(problems)],
        problems=[p for p in problems for _ in range(2)],
        texts=[""] * len(said),
        responses=[],
        scored=Scored(scores, {}, [True] * len(said)),
        right=list(scores),
        finish=reasons,
        rewards_PG=torch.tensor(scores).view(-1, 2),
        valid_PG=torch.ones(len(problems), 2, dtype=torch.bool),
        kept=list(range(len(problems))),
    )


@pytest.mark.parametrize("count", [1, 3, 8])
def test_every_set_and_the_general_prompts_have_their_shares_of_all_that_is_asked(count: int) -> None:
    asked = collections.Counter(name[0] for step in asked_by(asking_of(), range(40), count=count) for name in step)
    assert asked["g"] == count * 40 // 4 and asked.total() == count * 40
    assert max(asked[name] for name in "abc") - min(asked[name] for name in "abc") <= 1


def test_general_prompts_begin_when_they_are_to_begin_and_count_from_there() -> None:
    steps = asked_by(asking_of(general_start=0.5), range(40))
    assert [sum(name[0] == "g" for name in step) for step in steps] == [0] * 20 + [2] * 20


def test_a_later_round_asks_reasoning_problems_that_the_step_has_not_asked_and_fewer_where_there_are_no_more() -> None:
    asking, asked = asking_of(prompts=60, general_share=0.5), []
    for number in range(4):
        asked += asking.ask(60, asked, seed=0, step=0, number=number)
    ids = [problem.id for problem in asked]
    assert len(set(ids)) == len(ids) == 150 and sum(name[0] == "g" for name in ids) == 30, "each of 120 once"


def test_what_went_wrong_is_asked_again_until_it_goes_right() -> None:
    asking = asking_of(replay=0.5, general_share=0.0)
    asking.record(answered({"a/1": 0.0, "b/2": 0.0, "c/3": 1.0}))
    for step in (1, 2, 3):
        asked = asked_by(asking, [step])[0]
        assert {"a/1", "b/2"} <= set(asked) and len(set(asked)) == 8
    asking.record(answered({"a/1": 1.0, "b/2": 0.0}))
    kept = json.loads(json.dumps(asking.to_json(asking.tally)))
    assert kept["replay"] == {"waiting": ["b/2/en"]}
    assert [list(pool["answers"]) for pool in kept["pools"]] == [["a/1/en"], ["b/2/en"], ["c/3/en"]]


def test_a_stopped_stage_goes_on_with_the_same_problems() -> None:
    straight, stopped = asking_of(replay=0.5), asking_of(replay=0.5)
    expected = asked_by(straight, range(3), count=3)
    straight.record(answered({"a/1": 0.0, "b/2": 0.5}))
    expected += asked_by(straight, range(3, 9), count=3)

    assert asked_by(stopped, range(3), count=3) == expected[:3]
    stopped.record(answered({"a/1": 0.0, "b/2": 0.5}))
    record = json.loads(json.dumps(stopped.to_json(stopped.tally)))
    other = asking_of(replay=0.5)
    other.load(record)
    assert asked_by(other, range(3, 9), count=3) == expected[3:]
    del record["tally"]  # as a state of an earlier version
    other.load(record)
    other.record(answered({"a/1": 0.0}, cut=2))


def test_lengths_are_checked_once_over_the_first_groups() -> None:
    """``prompts`` of them, however many steps that takes; a coming reward may well make later ones long."""
    asking = asking_of(prompts=3)
    asking.record(answered({"a/1": 1.0, "a/2": 1.0}, cut=4))
    with pytest.raises(InvariantError, match="67% of the first completions were cut at max_new_tokens: .* raise it"):
        asking.record(answered({"a/3": 1.0}))
    asking = asking_of(prompts=3)
    asking.record(answered({"a/1": 1.0, "a/2": 1.0}, cut=3))
    for cut in (0, 2, 2, 2):
        asking.record(answered({"a/3": 1.0}, cut=cut))


def test_too_few_problems_are_said_at_once() -> None:
    with pytest.raises(DataError, match="asks 100 general prompts, there are only 40"):
        asking_of(prompts=200, general_share=0.5)
    with pytest.raises(SettingError, match="prompts=2 leaves some of 3 sets of problems out; raise it"):
        asked_by(asking_of(prompts=2, general_share=0.0), [0])
