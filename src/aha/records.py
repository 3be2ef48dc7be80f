"""What flows between the areas: frozen records, standard library only, each with a worked example.

A ``Problem`` is asked; an engine answers with ``Completion``s; G of them for one problem are a ``Group``; a reward
turns a completion into ``Verdict``s; a ``Sample`` is what a stage writes down about one completion; a ``StageResult``
is what a finished stage hands on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation: ``Message("user", "what is 2 + 3 ?")``. Roles: system, user, assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with what is needed to judge an answer.

    ``Problem(id="sum/7+45", prompt="What is 7 + 45?", answer="52", task="number", language="en")``.
    ``task`` names the checker; ``answer`` is the gold (empty where only a rule score or a preference model can judge);
    ``meta`` holds whatever else the checker needs.
    """

    id: str
    prompt: str
    answer: str
    task: str
    language: str = "en"
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What tells it from all others that are asked: one id may stand once in each language."""
        return f"{self.id}/{self.language}"


class FinishReason(StrEnum):
    """Why the engine ended a sequence. Nobody derives it again."""

    END = "end"  # one of the end tokens was sampled; it is the last of token_ids
    STOP = "stop"  # a stop string appeared; it is part of token_ids
    LENGTH = "length"  # max_new_tokens reached: the text is cut
    BROKEN = "broken"  # an endpoint broke it off, by a filter say: the text is cut, or there is none


@dataclass(frozen=True, slots=True)
class Completion:
    """What the engine sampled after a prompt.

    ``Completion((17, 4, 2), (-0.1, -0.7, -0.0), FinishReason.END, policy_version=3)``: three tokens, the last one an
    end token, each with the log-probability under the very distribution it was drawn from, by version 3 of the weights;
    of a completion in pieces (rollout/partial.py) the version is the first's.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    policy_version: int

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.logprobs):
            raise ValueError(f"{len(self.token_ids)} tokens but {len(self.logprobs)} log-probs")


@dataclass(frozen=True, slots=True)
class Group:
    """The G completions of one problem, a type so that nobody can normalise over the wrong set.

    ``Group(problem, prompt_ids=(5, 9, 2), completions=(c1, c2))``. All completions carry the same policy version.
    """

    problem: Problem
    prompt_ids: tuple[int, ...]
    completions: tuple[Completion, ...]

    def __post_init__(self) -> None:
        if len(self.completions) < 1:
            raise ValueError(f"group of problem {self.problem.id!r} is empty")
        versions = {c.policy_version for c in self.completions}
        if len(versions) != 1:
            raise ValueError(f"group of problem {self.problem.id!r} mixes policy versions {sorted(versions)}")


class Status(StrEnum):
    """Outcome of judging: a verifier that failed is not an answer that is wrong."""

    RIGHT = "right"
    WRONG = "wrong"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One named reward of one completion: ``Verdict("accuracy", Status.RIGHT, 1.0, "6 = 6")``.

    ``score`` is unweighted. ``note`` says what was compared, for people. With status ERROR the sample is masked.
    """

    name: str
    status: Status
    score: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion as it is written to ``samples/*.parquet`` and shown by ``aha inspect``.

    ``tokens`` and ``advantages`` have one entry per completion token.
    """

    step: int
    problem_id: str
    task: str
    language: str
    prompt: str
    completion: str
    answer: str
    finish_reason: str
    reward: float
    rewards: Mapping[str, float]
    tokens: tuple[str, ...] = ()
    advantages: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class StageResult:
    """What a finished stage says of itself: ``StageResult({"loss": 1.02, "steps": 900})``; written as
    ``result.json``."""

    metrics: Mapping[str, Any]
