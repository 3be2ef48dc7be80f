"""The rewards of an RL stage, built from its settings: which count, how much, for which problems, and from when."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from aha.config import Count, Frozen, NotNegative, Share
from aha.data.preferences import is_harmful
from aha.errors import CheckpointError, InvariantError, SettingError
from aha.model.heads import load_reward_model
from aha.records import Problem, Status, Verdict
from aha.reward import length, rules
from aha.reward.accuracy import judge_accuracy
from aha.reward.formats import carrot, tag_count
from aha.reward.learned import Reads, learned_judge
from aha.reward.repetition import ngram_penalty
from aha.reward.response import Response, read_response
from aha.reward.rubric import Judge, Reward, each, score
from aha.stages.models import best_device
from aha.tokens.render import Renderer
from aha.tokens.tokenizer import load_tokenizer
from aha.util.files import read_json
from aha.util.seeds import python_rng


class Weights(Frozen):
    """What each named reward counts; 0 leaves it out.

    ``carrot`` is accuracy with a little for an answer that can be read, ``tags`` a quarter for each tag, ``repetition``
    the penalty on repeated trigrams, ``length`` what ``Length`` says. ``random`` is the control: a coin that knows
    nothing of the text.
    """

    accuracy: float = 1.0
    carrot: float = 0.0
    format: float = 0.1
    tags: float = 0.0
    language: float = 0.0
    general: float = 0.0
    helpful: float = 0.0
    safe: float = 0.0
    length: float = 0.0
    repetition: float = 0.0
    random: float = 0.0


class Length(Frozen):
    """The length reward, a function of reward/length.py. "overlong" (DAPO) and "kimi" are added to the accuracy;
    "cosine", "l1-exact", "l1-max" and "efficient" contain it: give ``weights.accuracy`` 0 with them.

    ``longest`` is the cap that is meant (None: the stage's), ``cache`` the share of it in which "overlong" sinks,
    ``target`` the tokens that L1 asks for, ``alpha`` its slope or, for "efficient", what length may cost. It counts
    from ``start`` of the steps on and comes in over ``ramp`` of them.
    """

    kind: Literal["overlong", "kimi", "cosine", "l1-exact", "l1-max", "efficient"] = "overlong"
    longest: Count | None = None
    cache: Share = 0.2
    target: Count = 256
    alpha: NotNegative = 3e-4
    start: Share = 0.0
    ramp: NotNegative = 0.0

    @model_validator(mode="after")
    def _may_cost(self) -> Length:
        if self.kind == "efficient" and self.alpha >= 1:
            raise ValueError(f"alpha={self.alpha}: less than 1 with kind 'efficient', where all of an answer may go")
        return self


def length_judge(settings: Length, *, max_new_tokens: int, accuracy: Judge = judge_accuracy) -> Judge:
    """The length reward as a judge; completions of one problem, which come one after the other, are one group. Where
    accuracy is a part of it and its checker fails, so does this: the completion is in no group."""
    longest = settings.longest or max_new_tokens

    def judge(problems: Sequence[Problem], responses: Sequence[Response]) -> list[Verdict]:
        if settings.kind == "overlong":  # right and wrong alike
            cache = max(1, round(settings.cache * longest))
            return [_length(length.soft_overlong(r.tokens, max_length=longest, cache=cache)) for r in responses]
        verdicts = [replace(verdict, name="length") for verdict in accuracy(problems, responses)]
        judged = [i for i, verdict in enumerate(verdicts) if verdict.status is not Status.ERROR]
        for _, rows in itertools.groupby(judged, key=lambda i: problems[i].key):
            group = list(rows)
            lengths, right = [responses[i].tokens for i in group], [verdicts[i].status is Status.RIGHT for i in group]
            for i, value in zip(group, of_group(lengths, right), strict=True):
                verdicts[i] = _length(value)
        return verdicts

    def of_group(lengths: list[int], right: list[bool]) -> list[float]:
        each_one = list(zip(lengths, right, strict=True))
        match settings.kind:
            case "kimi":
                return length.kimi_k15(lengths, right)
            case "cosine":
                return [length.cosine(n, r, max_length=longest) for n, r in each_one]
            case "l1-exact":
                return [length.l1_exact(n, r, target=settings.target, alpha=settings.alpha) for n, r in each_one]
            case "l1-max":
                return [length.l1_max(n, r, target=settings.target, alpha=settings.alpha) for n, r in each_one]
            case _:
                return length.efficient(lengths, right, alpha=settings.alpha)

    return judge


def _length(value: float) -> Verdict:
    return Verdict("length", Status.RIGHT if value > 0 else Status.WRONG, value)


def _repetition(problem: Problem, response: Response) -> Verdict:
    penalty = ngram_penalty(f"{response.think} {response.answer or ''}")
    return Verdict("repetition", Status.WRONG if penalty else Status.RIGHT, penalty)


def is_reasoning(problem: Problem) -> bool:
    """Whether a checker, not a preference, judges the answer."""
    return problem.task != "general"


def is_general(problem: Problem) -> bool:
    return problem.task == "general"


def has_rule(problem: Problem) -> bool:
    """Whether a rule can score the general prompt; one of yours has a preference model alone."""
    return is_general(problem) and "kind" in problem.meta


def is_harmless(problem: Problem) -> bool:
    return is_general(problem) and not is_harmful(problem)


def build_rewards(
    weights: Weights,
    preferences: Mapping[str, Judge],
    *,
    preference_start: float,
    seed: int,
    step: int,
    length_shape: Length | None = None,
    max_new_tokens: int = 1,
    accuracy: Judge = judge_accuracy,
) -> list[Reward]:
    """The rewards with a weight. ``preferences`` has the learned judges by name, ``accuracy`` judges what is right;
    ``step`` picks the coin's stream, which goes on from one call to the next: groups that are asked later in a step
    have tosses of their own."""

    def anything(problem: Problem) -> bool:
        return True

    rng = python_rng(seed, "coin", step)  # of the step: groups that are asked again have tosses of their own

    def coin(problems: Sequence[Problem], responses: Sequence[Response]) -> list[Verdict]:
        return [Verdict("random", Status.RIGHT, float(rng.random() < 0.5)) for _ in problems]

    rewards = [
        Reward("accuracy", accuracy, weights.accuracy, is_reasoning),
        Reward("carrot", each(carrot), weights.carrot, is_reasoning),
        Reward("format", each(rules.format_tags), weights.format, anything),
        Reward("tags", each(tag_count), weights.tags, anything),
        Reward("language", each(rules.language), weights.language, anything),
        Reward("general", each(rules.general_rule), weights.general, has_rule),
        Reward("repetition", each(_repetition), weights.repetition, anything),
        Reward("random", coin, weights.random, anything),
    ]
    if weights.length:
        shape = length_shape or Length()
        judge = length_judge(shape, max_new_tokens=max_new_tokens, accuracy=accuracy)
        rewards.append(Reward("length", judge, weights.length, is_reasoning, shape.start, ramp=shape.ramp))
    for name, weight, applies in (("helpful", weights.helpful, is_harmless), ("safe", weights.safe, is_harmful)):
        if weight and name not in preferences:
            raise SettingError(f"weights.{name} is {weight}, but the stage has no input {name!r}: a reward_model stage")
        if weight:
            rewards.append(Reward(name, preferences[name], weight, applies, preference_start))
    return [reward for reward in rewards if reward.weight]


def load_preferences(inputs: Mapping[str, Path], renderer: Renderer) -> dict[str, Judge]:
    """The preference models among a stage's inputs, as judges. ``CheckpointError`` when one has other tokens than
    ``renderer``: it would read other words than were said."""
    judges: dict[str, Judge] = {}
    reads: dict[str, Reads] = {"helpful": "answer", "safe": "everything"}
    for name, what in reads.items():
        if name in inputs:
            tokenizer = load_tokenizer(inputs[name] / "model")
            if tokenizer.backend.get_vocab() != renderer.tokenizer.backend.get_vocab():
                raise CheckpointError(f"the vocabulary of {inputs[name] / 'model'} is not that of the policy it judges")
            model, _ = load_reward_model(inputs[name] / "model")
            offset = float(read_json(inputs[name] / "result.json")["metrics"]["offset"])
            judges[name] = learned_judge(name, model.to(best_device()).eval(), renderer, what, offset=offset)
    return judges


def check_known_good(rewards: Sequence[Reward], problem: Problem, renderer: Renderer) -> None:
    """Score a completion that is known to be right before anything is trained on: a template or a tag that no
    completion can satisfy gives reward 0 for ever and no error."""
    if not is_reasoning(problem) or not problem.answer:
        return
    rules_only = [r for r in rewards if r.name in ("accuracy", "format")]
    prompt = renderer.prompt_text(problem.prompt)
    completion = renderer.continuation(f"<think> thinking </think> <answer> {problem.answer} </answer>")
    response = read_response(completion, prompt_tail=prompt[-64:])
    scored = score(rules_only, [problem], [response], progress=0.0)
    for name, values in scored.parts.items():
        if values[0] is not None and values[0] != 1.0:
            raise InvariantError(
                f"a known-good answer gets {name} {values[0]}, not 1: problem {problem.id!r}, prompt {prompt!r}, "
                f"completion {completion!r}; correct the template, the tags or the gold answer"
            )
