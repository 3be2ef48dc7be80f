"""A stricter verifier beside the one that rewards: no policy is ever trained on what it says.

Where a policy learns to please its verifier instead of answering, the two part. DeepSeek-R1 saw it with a preference
model, whose reward went on rising while solved problems fell (R1v2 B.5, figure 6).
"""

from __future__ import annotations

from aha.records import Problem, Status
from aha.reward import rules
from aha.reward.accuracy import BATCHES
from aha.reward.extraction import find_answer
from aha.reward.response import Response
from aha.tasks.checkers import checker_of

_SPARE = 16  # characters that an answer may have beyond twice those of the gold


def is_strictly_right(problem: Problem, response: Response, right: float | None) -> bool | None:
    """Whether the answer is right, alone, in the right place: the format is exact, or the task takes a box and no tag
    was tried; and the whole of the answer, not something found in it, is right and no list of guesses. A general prompt
    with a rule keeps its rule.

    ``right`` is the rewarding verifier's word, which is taken for tasks that other processes judge. ``None`` where
    nobody but a preference model can say, or the checker failed.
    """
    if problem.task == "general":
        if "kind" not in problem.meta:
            return None
        return response.well_formed and rules.general_rule(problem, response).status is Status.RIGHT
    answer = response.answer if response.well_formed else None
    if answer is None and (found := find_answer(problem, response)) and found.rule == "box":
        answer = found.text
    if answer is None:
        return False
    if problem.task in BATCHES:
        correct = right
    else:
        try:
            correct = checker_of(problem).is_correct(problem, answer)
        except Exception:  # the checker's fault, not the model's
            return None
    if correct is None:
        return None
    return bool(correct) and (not problem.answer or len(answer) <= 2 * len(problem.answer) + _SPARE)
