from __future__ import annotations

import pytest

from aha.evaluate.votes import Formulas, join_equal, vote_keys
from aha.records import Problem, Status, Verdict
from aha.reward.response import read_response
from aha.tasks import mathematics


def test_equal_formulas_vote_as_the_one_said_first() -> None:
    said = [{"x+2": "x + 2", "2+x": "2+x", "x": "x"}, {"7": "7", "8": "8"}, {}]
    assert join_equal(said) == [{"x+2": "x+2", "2+x": "x+2", "x": "x"}, {"7": "7", "8": "8"}, {}]
    assert join_equal([]) == []
    one_by_one = Formulas()
    assert [one_by_one.join(key, text) for key, text in said[0].items()] == ["x+2", "x+2", "x"]


def test_formulas_that_nobody_could_compare_are_not_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Verdict("accuracy", Status.ERROR, 0.0, "too slow")
    monkeypatch.setattr(mathematics, "verify_many", lambda pairs: [failed] * len(pairs))
    assert join_equal([{"x": "x", "y": "y"}]) == [{"x": "x", "y": "y"}]


def test_answers_that_are_written_apart_win_together() -> None:
    problem = Problem("p", "q", r"\frac{1}{2}", "math")
    said = [r"\boxed{3}", r"\boxed{3}"]
    said += [r"so \boxed{\frac{\sqrt{4}}{4}}", r"The answer is 0.5", r"\boxed{\frac12}", "no"]
    (keys,) = vote_keys([problem], [[read_response(text) for text in said]])
    assert keys[2] == keys[3] == keys[4] is not None and keys[0] == keys[1] == "3" and keys[5] is None


@pytest.mark.parametrize(
    ("gold", "texts"),
    [
        ("5", ["5", r"5\text{ cm}", r"5 \text{ cm}"]),
        (
            r"\begin{pmatrix} -\frac13 \\ \frac{2}{3} \\ 5 \end{pmatrix}",
            [
                r"\begin{pmatrix} -1/3 \\ 2/3 \\ 5 \end{pmatrix}",
                r"\begin{pmatrix}-\dfrac{1}{3}\\\dfrac{2}{3}\\5\end{pmatrix}",
                r"\begin{pmatrix} -\frac{1}{3} \\ \frac{2}{3} \\ 5 \end{pmatrix}",
            ],
        ),
    ],
)
def test_what_the_verifier_calls_right_votes_together(gold: str, texts: list[str]) -> None:
    responses = [read_response(rf"so \boxed{{{text}}}") for text in [*texts, "8"]]
    (keys,) = vote_keys([Problem("p", "q", gold, "math")], [responses])
    assert mathematics.is_correct(Problem("p", "q", gold, "math"), texts[1])
    assert keys[0] is not None and set(keys[:-1]) == {keys[0]} != {keys[-1]}


def test_programs_vote_by_what_would_be_run_and_need_no_tag() -> None:
    problem = Problem("p", "q", "", "code", meta={"tests": ["assert f(1) == 2"]})
    more, same = "def f(x):\n    return x + 1", "def f(x):\n    return x"
    said = [f"Here it is:\n```python\n{more}\n```", f"```python\n{more}\n\n```\nDone."]
    said += [f"<answer>\n```python\n{same}\n```\n</answer>", ""]
    (keys,) = vote_keys([problem], [[read_response(text) for text in said]])
    assert keys == [more, more, same, None]
