"""The rewards of an RL stage, built from its settings: which count, how much, for which problems, and from when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from aha.config import Frozen
from aha.data.preferences import is_harmful
from aha.errors import CheckpointError, InvariantError, SettingError
from aha.model.heads import load_reward_model
from aha.records import Problem, Status, Verdict
from aha.reward import rules
from aha.reward.accuracy import judge_accuracy
from aha.reward.learned import Reads, learned_judge
from aha.reward.response import Response, read_response
from aha.reward.rubric import Judge, Reward, each, score
from aha.stages.models import best_device
from aha.tokens.render import Renderer
from aha.tokens.tokenizer import load_tokenizer
from aha.util.files import read_json
from aha.util.seeds import python_rng


class Weights(Frozen):
    """What each named reward counts; 0 leaves it out. ``random`` is the control: a coin that knows nothing of the
    text."""

    accuracy: float = 1.0
    format: float = 0.1
    language: float = 0.0
    general: float = 0.0
    helpful: float = 0.0
    safe: float = 0.0
    random: float = 0.0


def is_reasoning(problem: Problem) -> bool:
    """Whether a checker, not a preference, judges the answer."""
    return problem.task != "general"


def is_general(problem: Problem) -> bool:
    return problem.task == "general"


def is_harmless(problem: Problem) -> bool:
    return is_general(problem) and not is_harmful(problem)


def build_rewards(
    weights: Weights, preferences: Mapping[str, Judge], *, preference_start: float, seed: int, step: int
) -> list[Reward]:
    """The rewards with a weight. ``preferences`` has the learned judges by name; ``step`` picks the coin's stream."""

    def anything(problem: Problem) -> bool:
        return True

    def coin(problems: Sequence[Problem], responses: Sequence[Response]) -> list[Verdict]:
        rng = python_rng(seed, "coin", step)
        return [Verdict("random", Status.RIGHT, float(rng.random() < 0.5)) for _ in problems]

    rewards = [
        Reward("accuracy", judge_accuracy, weights.accuracy, is_reasoning),
        Reward("format", each(rules.format_tags), weights.format, anything),
        Reward("language", each(rules.language), weights.language, anything),
        Reward("general", each(rules.general_rule), weights.general, is_general),
        Reward("random", coin, weights.random, anything),
    ]
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
