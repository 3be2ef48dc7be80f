"""Asking a model folder, and the vote over its answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from aha.errors import CheckpointError, DataError
from aha.model.config_file import model_folder
from aha.records import FinishReason
from aha.reward.response import read_response
from aha.stages.generate import Answer, generate, open_model, room_for_new_tokens, vote
from aha.stages.models import save_policy
from aha.testing import byte_tokenizer, tiny_policy
from aha.tokens.render import R1_ZERO_TEMPLATE


def said(text: str) -> Answer:
    return Answer(text, read_response(text), FinishReason.END, tokens=3, logprob=-1.0)


def test_a_stage_and_its_model_folder_are_the_same_and_a_run_is_not(tmp_path: Path) -> None:
    save_policy(tiny_policy(), tmp_path / "run" / "zero" / "model")
    stage = tmp_path / "run" / "zero"
    assert model_folder(stage) == model_folder(stage / "model") == stage / "model"
    with pytest.raises(CheckpointError, match="it is a run: give one of its stages, .*: zero"):
        model_folder(tmp_path / "run")


def test_which_template_is_used(tmp_path: Path) -> None:
    save_policy(tiny_policy(tokenizer=byte_tokenizer(), template="Q {question}"), tmp_path)
    policy, origin = open_model(tmp_path, template=None)
    assert policy.renderer.template == "Q {question}" and "aha.json" in origin
    assert open_model(tmp_path, template="{question} A")[0].renderer.template == "{question} A"
    (tmp_path / "aha.json").unlink()
    policy, origin = open_model(tmp_path, template=None)
    assert policy.renderer.template == R1_ZERO_TEMPLATE and "R1-Zero" in origin


def test_a_completion_depends_on_its_number_and_the_seed_alone() -> None:
    policy = tiny_policy()
    options = {"max_new_tokens": 6, "temperature": 1.0, "top_p": 1.0}
    one, many, other = (
        generate(policy, "compute 1 + 2", num=num, seed=seed, **options)  # type: ignore[arg-type]
        for num, seed in ((1, 0), (4, 0), (4, 1))
    )
    assert one.prompt == policy.renderer.prompt_text("compute 1 + 2")
    assert one.answers[0].text == many.answers[0].text
    assert [a.text for a in many.answers] != [a.text for a in other.answers]
    assert all(1 <= a.tokens <= 6 and a.logprob < 0 for a in many.answers)


def test_new_tokens_fill_what_the_positions_leave() -> None:
    policy = tiny_policy()
    assert room_for_new_tokens(policy, 10, None) == 246 and room_for_new_tokens(policy, 10, 5) == 5
    with pytest.raises(DataError, match="256 tokens"):
        room_for_new_tokens(policy, 256, None)


def test_votes_compare_numbers_as_numbers_and_expressions_as_text() -> None:
    answers = ["<answer> 14.0 </answer>", "<answer> 15 </answer>", "14", "<answer> 14 apples </answer>"]
    voted = vote([said(text) for text in answers])
    assert (voted.answer, voted.counts, voted.abstained) == ("14.0", {"14": 2, "15": 1}, 1)
    signs = ["20 + 7 - 2", "20+7-2", "20 - 7 + 2"]
    assert vote([said(f"<answer> {text} </answer>") for text in signs]).counts == {"20+7-2": 2, "20-7+2": 1}
    assert vote([said("<answer> red </answer>"), said("<answer> Red </answer>")]).counts == {"red": 1, "Red": 1}
    assert vote([said("red")]).answer is None


def test_votes_find_an_answer_wherever_it_stands() -> None:
    texts = [r"so \boxed{7}", r"\boxed{7.0}", "The answer is 7.", "<answer> 8 </answer>", "perhaps 9"]
    voted = vote([said(text) for text in texts])
    assert (voted.answer, voted.counts, voted.abstained) == ("7", {"7": 3, "8": 1}, 1)
    letters = [r"<answer> (B) </answer>", "<answer> B. both </answer>", r"\boxed{B}", "Answer: C"]
    assert vote([said(text) for text in letters]).counts == {"B": 3, "C": 1}
    halves = [r"\boxed{\frac{1}{2}}", "<answer> 0.5 </answer>"]
    assert vote([said(text) for text in halves]).counts == {"1/2": 2}
