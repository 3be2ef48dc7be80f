import math

import pytest

from aha.objective.algorithms import ALGORITHMS, Critic
from aha.objective.describe import choices, describe, differences
from aha.util.files import json_text


def test_differences_name_what_differs_and_nothing_else() -> None:
    assert differences(ALGORITHMS["grpo"], ALGORITHMS["grpo"]) == {}
    assert differences(ALGORITHMS["grpo"], ALGORITHMS["cppo"]) == {"prune": (0.0, 0.875)}
    assert differences(ALGORITHMS["dapo"], ALGORITHMS["grpo"])["clip_high"] == (0.28, 0.2)


def test_differences_open_the_critics() -> None:
    found = differences(ALGORITHMS["ppo"], ALGORITHMS["vapo"])
    assert found["critic.length_alpha"] == (None, 0.05)
    assert "critic.gamma" not in found
    assert differences(ALGORITHMS["grpo"], ALGORITHMS["ppo"])["critic.gamma"] == (None, Critic().gamma)


def test_words_hold_the_numbers() -> None:
    assert describe(ALGORITHMS["dapo"]) == {
        "advantage": "(r - group mean) / group std",
        "ratio": "token, 0.8 to 1.28",
        "loss": "mean of all tokens",
        "KL": "",
        "updates": "16",
        "besides": "mixed groups alone, refilled to 100%",
    }
    assert describe(ALGORITHMS["cispo"])["ratio"] == "token, weight up to 5"
    assert describe(ALGORITHMS["grpo-r1"])["ratio"] == "token, up to 11"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_choices_are_json_without_infinities(name: str) -> None:
    found = choices(ALGORITHMS[name])
    assert not any(isinstance(value, float) and math.isinf(value) for value in found.values())
    json_text(found)
