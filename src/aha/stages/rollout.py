"""What one step of reinforcement learning looks at: problems asked, groups sampled and judged, equal ones asked again.

Axes: ``P`` problems, ``G`` samples per problem.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from aha.objective.algorithms import Algorithm
from aha.objective.selection import has_signal
from aha.records import Completion, FinishReason, Group, Problem, Status
from aha.reward.accuracy import judge_accuracy
from aha.reward.response import Response, read_response
from aha.reward.rubric import Judge, Reward, Scored, score
from aha.stages.models import Policy
from aha.stages.rewarding import is_reasoning


@dataclass(frozen=True)
class Rollout:
    """Groups, flattened: one entry for each completion; P x G rewards and validity.

    ``right`` is the accuracy of reasoning problems, measured whether or not it is rewarded. ``kept`` are the groups
    that are trained on; ``rounds`` is how often was asked for more.
    """

    groups: list[Group]
    problems: list[Problem]
    texts: list[str]
    responses: list[Response]
    scored: Scored
    right: list[float | None]
    finish: list[FinishReason]
    rewards_PG: torch.Tensor
    valid_PG: torch.Tensor
    kept: list[int]
    rounds: int = 1

    @property
    def token_ids(self) -> list[tuple[int, ...]]:
        """Of every completion."""
        return [completion.token_ids for group in self.groups for completion in group.completions]

    @property
    def results(self) -> list[tuple[str, int, int]]:
        """(problem's key, right answers, judged answers) of each group of a reasoning problem."""
        G = self.rewards_PG.shape[1]
        found = []
        for p, group in enumerate(self.groups):
            judged = [verdict for verdict in self.right[p * G : (p + 1) * G] if verdict is not None]
            if is_reasoning(group.problem):
                found.append((group.problem.key, sum(v == 1.0 for v in judged), len(judged)))
        return found

    @property
    def tokens_wasted(self) -> int:
        """Of the groups that were sampled and are not trained on."""
        dropped = set(range(len(self.groups))) - set(self.kept)
        return sum(len(c.token_ids) for p in dropped for c in self.groups[p].completions)


def read_completions(
    policy: Policy, problem: Problem, completions: Sequence[Completion]
) -> tuple[list[str], list[Response]]:
    """The texts of a problem's completions, and what they say."""
    tail = policy.renderer.prompt_text(problem.prompt)[-64:]
    texts = [policy.tokenizer.decode(completion.token_ids) for completion in completions]
    read = [
        read_response(text, prompt_tail=tail, tokens=len(completion.token_ids))
        for text, completion in zip(texts, completions, strict=True)
    ]
    return texts, read


def judge_groups(
    policy: Policy,
    groups: list[Group],
    rewards: Sequence[Reward],
    *,
    progress: float,
    accuracy: Judge = judge_accuracy,
) -> Rollout:
    """Decode, read and score every completion of every group; ``accuracy`` judges what is right where no reward does.
    """
    flat = [(group, completion) for group in groups for completion in group.completions]
    problems = [group.problem for group, _ in flat]
    read = [read_completions(policy, group.problem, group.completions) for group in groups]
    texts = [text for own, _ in read for text in own]
    responses = [response for _, own in read for response in own]
    scored = score(rewards, problems, responses, progress=progress)
    right = scored.parts.get("accuracy") or _right(problems, responses, accuracy)
    shape = (len(groups), len(groups[0].completions))
    return Rollout(
        groups=groups,
        problems=problems,
        texts=texts,
        responses=responses,
        scored=scored,
        right=right,
        finish=[c.finish_reason for _, c in flat],
        rewards_PG=torch.tensor(scored.total, dtype=torch.float64).view(shape),
        valid_PG=torch.tensor(scored.valid).view(shape),
        kept=list(range(len(groups))),
    )


def _right(problems: Sequence[Problem], responses: Sequence[Response], accuracy: Judge) -> list[float | None]:
    """Accuracy for the log where it is no reward; ``None`` where no checker judges, or it failed."""
    rows = [i for i, problem in enumerate(problems) if is_reasoning(problem)]
    verdicts = accuracy([problems[i] for i in rows], [responses[i] for i in rows])
    right = {i: v.score for i, v in zip(rows, verdicts, strict=True) if v.status is not Status.ERROR}
    return [right.get(i) for i in range(len(problems))]


def roll_out(
    ask: Callable[[int, int], Sequence[Problem]],
    answer: Callable[[Sequence[Problem]], Rollout],
    *,
    prompts: int,
    algorithm: Algorithm,
    max_rounds: int,
    max_tokens: float = math.inf,
    rng: random.Random | None = None,
) -> Rollout:
    """Ask ``prompts`` problems, and again while too few of their groups have a signal (DAPO, 2503.14476, section 3.2).

    ``ask(count, round)`` gives up to ``count`` problems that this step has not asked yet, ``answer`` samples and judges
    their groups. A row with ``refill`` goes on until ``refill * prompts`` groups have a signal, for ``max_rounds``
    rounds at most and as far as ``max_tokens`` sampled tokens are expected to do. With ``keep="mixed"`` those groups
    alone are kept, ``prompts`` at most; where there is none, all are, and the step has no gradient. Which of the last
    round's are too many is drawn from ``rng``, as a round asks one set of problems after the other; without one it is
    the last of them.
    """
    rollout = answer(ask(prompts, 0))
    wanted = math.ceil(algorithm.refill * prompts)
    rounds, before = 1, 0
    while rounds < max_rounds:
        found = int(has_signal(rollout.rewards_PG, rollout.valid_PG).sum())
        # As many as the share of useful ones so far lets expect, and no more than the first time.
        number = min(prompts, math.ceil((wanted - found) * len(rollout.groups) / max(found, 1)))
        tokens_each = sum(map(len, rollout.token_ids)) / len(rollout.groups)
        if found >= wanted or (len(rollout.groups) + number) * tokens_each > max_tokens:
            break
        more = ask(number, rounds)
        if not more:
            break
        before = len(rollout.groups)
        rollout, rounds = _joined(rollout, answer(more)), rounds + 1
    kept = list(range(len(rollout.groups)))
    if algorithm.keep == "mixed":
        mixed = has_signal(rollout.rewards_PG, rollout.valid_PG).nonzero()[:, 0].tolist()
        if rng is not None and len(mixed) > prompts:
            first, last = [p for p in mixed if p < before], [p for p in mixed if p >= before]
            mixed = first + sorted(rng.sample(last, max(0, prompts - len(first))))
        kept = mixed[:prompts] or kept
    return replace(rollout, kept=kept, rounds=rounds)


def _joined(first: Rollout, second: Rollout) -> Rollout:
    """Both, one after the other. A part that only one of them has was not judged in the other."""
    counts = len(first.problems), len(second.problems)
    parts = {}
    for name in {**first.scored.parts, **second.scored.parts}:
        one, other = (
            r.scored.parts.get(name, [None] * n) for r, n in zip((first, second), counts, strict=True)
        )
        parts[name] = [*one, *other]
    scored = Scored(first.scored.total + second.scored.total, parts, first.scored.valid + second.scored.valid)
    return Rollout(
        groups=first.groups + second.groups,
        problems=first.problems + second.problems,
        texts=first.texts + second.texts,
        responses=first.responses + second.responses,
        scored=scored,
        right=first.right + second.right,
        finish=first.finish + second.finish,
        rewards_PG=torch.cat((first.rewards_PG, second.rewards_PG)),
        valid_PG=torch.cat((first.valid_PG, second.valid_PG)),
        kept=list(range(len(first.groups) + len(second.groups))),
    )
