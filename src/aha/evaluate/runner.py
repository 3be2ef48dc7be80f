"""Sample k answers to each problem, judge them, and say what the model can do, with intervals.

DeepSeek-R1's protocol: several samples a problem at temperature 0.6 and top-p 0.95, pass@1 as their mean, cons@k as the
majority's accuracy (R1v1 3). The toy samples at temperature 1, as it trains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aha.errors import VerifierError
from aha.evaluate.estimators import (
    Estimate,
    cons_at_k,
    cons_values,
    mean_interval,
    pass_at_1,
    pass_at_k,
    score_interval,
)
from aha.evaluate.votes import vote_keys
from aha.records import Completion, Group, Problem, Status, Verdict
from aha.reward import rules
from aha.reward.accuracy import judge_accuracy
from aha.reward.response import Response, read_response
from aha.tasks.words import LANGUAGES
from aha.tokens.render import Renderer


@dataclass(frozen=True)
class Judged:
    """One problem's k completions with what was read from them."""

    problem: Problem
    completions: tuple[Completion, ...]
    texts: tuple[str, ...]
    responses: tuple[Response, ...]


class Read(Protocol):
    """A problem with the responses to it."""

    @property
    def problem(self) -> Problem: ...
    @property
    def responses(self) -> Sequence[Response]: ...


def read_groups(groups: Sequence[Group], renderer: Renderer) -> list[Judged]:
    """Decode and read every completion."""
    judged = []
    for group in groups:
        tail = renderer.prompt_text(group.problem.prompt)[-64:]
        texts = tuple(renderer.tokenizer.decode(c.token_ids) for c in group.completions)
        responses = tuple(read_response(text, prompt_tail=tail) for text in texts)
        judged.append(Judged(group.problem, group.completions, texts, responses))
    return judged


def reasoning_metrics(judged: Sequence[Judged], *, votes: Sequence[int]) -> dict[str, Any]:
    """pass@1, cons@k and pass@k for the largest of ``votes``, format, length, the vote curve, each task's own, language
    where any thinking has words, and ``by_problem``: pass@1, cons@k and length of each problem."""
    verdicts = judge_rows(judged)
    num_errors = count_errors([verdict for row in verdicts for verdict in row])
    correct = [[verdict.status is Status.RIGHT for verdict in row] for row in verdicts]
    keys = vote_keys([j.problem for j in judged], [j.responses for j in judged])
    lengths = [_mean([len(c.token_ids) for c in j.completions]) for j in judged]
    k = max(votes)
    metrics: dict[str, Any] = {
        "pass@1": pass_at_1(correct).as_dict(),
        f"cons@{k}": cons_at_k(keys, correct, k).as_dict(),
        f"pass@{k}": pass_at_k(correct, k).as_dict(),
        "format": _share(judged, rules.format_tags).as_dict(),
        "length": mean_interval(lengths, minimum=0.0).as_dict(),
        "votes": [{"k": vote, **cons_at_k(keys, correct, vote).as_dict()} for vote in votes],
        "verifier_errors": num_errors,
    }
    if spoken := language_shares(judged):
        metrics["language"] = score_interval(spoken).as_dict()
    by_task: dict[str, Any] = {}
    for task in sorted({j.problem.task for j in judged}):
        rows = [i for i, j in enumerate(judged) if j.problem.task == task]
        by_task[task] = {
            "pass@1": pass_at_1([correct[i] for i in rows]).as_dict(),
            f"cons@{k}": cons_at_k([keys[i] for i in rows], [correct[i] for i in rows], k).as_dict(),
            "length": mean_interval([lengths[i] for i in rows], minimum=0.0).as_dict(),
        }
    by_problem = {
        "pass@1": [_mean(row) for row in correct],
        f"cons@{k}": cons_values(keys, correct, k),
        "length": lengths,
    }
    return metrics | {"by_task": by_task, "by_problem": by_problem}


def judge_rows(judged: Sequence[Read]) -> list[list[Verdict]]:
    """The accuracy of every response, a row a problem, judged in one call."""
    problems = [j.problem for j in judged for _ in j.responses]
    verdicts = iter(judge_accuracy(problems, [response for j in judged for response in j.responses]))
    return [[next(verdicts) for _ in j.responses] for j in judged]


def general_score(judged: Sequence[Judged]) -> Estimate:
    """Mean rule score of general prompts."""
    return _share(judged, rules.general_rule)


def count_errors(verdicts: Sequence[Verdict]) -> int:
    """How often the verifier failed; such an answer counts as wrong, ``VerifierError`` when it is more than 5 %."""
    errors = [verdict for verdict in verdicts if verdict.status is Status.ERROR]
    if len(errors) > 0.05 * len(verdicts):
        raise VerifierError(f"the verifier failed on {len(errors)} of {len(verdicts)} answers; first: {errors[0].note}")
    return len(errors)


def language_shares(judged: Sequence[Read]) -> list[float]:
    """Each problem's mean share of words in its language, over the completions that think in words; nothing of a
    problem in a language that no rule tells."""
    told = [j for j in judged if j.problem.language in LANGUAGES]
    shares = [[rules.language_share(r.think, j.problem.language) for r in j.responses] for j in told]
    return [_mean(worded) for row in shares if (worded := [share for share in row if share is not None])]


def _share(judged: Sequence[Judged], judge: Callable[[Problem, Response], Verdict]) -> Estimate:
    return score_interval([_mean([judge(j.problem, r).score for r in j.responses]) for j in judged])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
