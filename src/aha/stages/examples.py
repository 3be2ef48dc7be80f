"""Examples for supervised training, made from a model's own samples and from rules: cold start, rejection sampling, or
clean.

The three sets of DeepSeek-R1 differ only in whose samples are kept and what is added: R1-Zero's correct and readable
samples, rewritten (R1v2 B.3.2); the reasoning model's correct one-language samples with general data (R1v1 2.3.3); or
none at all.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from aha.config import Amount, Count, Frozen, Rate
from aha.data.examples import WorkedExample, clean_example, readable, rewrite, save_examples, tagged
from aha.data.problems import load_problems
from aha.errors import DataError, SettingError
from aha.evaluate.runner import Judged, read_groups
from aha.records import Completion, FinishReason, Group, Problem, StageResult, Status
from aha.reward import rules
from aha.reward.accuracy import judge_accuracy
from aha.reward.response import read_response
from aha.rollout.engine import SamplingParams
from aha.rollout.group import sample_groups
from aha.rollout.native.engine import NativeEngine
from aha.search.driver import search
from aha.search.mcts import mcts
from aha.search.path import Path as Text
from aha.search.path import Scorer
from aha.stages.context import Context
from aha.stages.models import Policy, build_loaded_engine, load_policy
from aha.stages.search import EXPAND, STEP_STOPS, answer_key, build_search_engine, load_scorer
from aha.util.seeds import python_rng, stream


class Settings(Frozen):
    """``problems`` x ``samples`` completions of the policy are filtered, at most ``per_problem`` kept of each problem;
    with ``simulations`` the completions are those that a tree search of so many found, guided by the input ``scorer``;
    ``rewritten`` translates them into the prompt's language; ``clean`` and ``general`` examples are written by rule."""

    problems: Amount = 0
    samples: Count = 4
    simulations: Amount = 0
    per_problem: Count = 2
    rewritten: bool = False
    clean: Amount = 0
    general: Amount = 0
    max_new_tokens: Count = 80
    temperature: Rate = 1.0
    chunk: Count = 50


def run(settings: Settings, inputs: Mapping[str, Path], context: Context) -> StageResult:
    """``policy`` gives the samples (``scorer`` guides its search, where it searches), ``problems`` the questions;
    writes ``examples.jsonl`` and counts why samples were dropped."""
    rng = python_rng(context.seed, "examples")
    train = load_problems(inputs["problems"] / "train.jsonl")
    examples: list[WorkedExample] = []
    counts: Counter[str] = Counter()
    for name in ("problems", "clean"):
        if getattr(settings, name) > len(train):
            raise DataError(
                f"{name} is {getattr(settings, name)}, but there are only {len(train)} training problems: "
                f"--set {context.name}.{name}={len(train)}, or add problems"
            )
    if settings.problems:
        examples = _from_policy(settings, inputs, context, rng.sample(train, settings.problems), counts)
    examples += [_checked(clean_example(problem, rng), problem) for problem in rng.sample(train, settings.clean)]
    if settings.general:
        general = load_problems(inputs["problems"] / "general_train.jsonl")
        asked = rng.choices(general, k=settings.general)
        examples += [_checked(clean_example(problem, rng), problem) for problem in asked]
    if not examples:
        total = sum(counts.values())
        raise DataError(f"no example is left of {total} samples: {dict(counts)}; sample more, or add clean ones")
    rng.shuffle(examples)
    save_examples(context.out / "examples.jsonl", examples)
    origins = Counter(example.origin for example in examples)
    return StageResult({"examples": len(examples), "origins": dict(origins), "samples": dict(counts)})


def _checked(example: WorkedExample, problem: Problem) -> WorkedExample:
    """A worked example is to be imitated: one that breaks the format, or is wrong by its own checker, is an error."""
    response = read_response(example.completion)
    rule = rules.general_rule if problem.task == "general" else rules.accuracy
    verdict = rule(problem, response)
    if not response.well_formed or verdict.status is not Status.RIGHT:
        raise DataError(
            f"worked example of problem {problem.id!r} would teach a wrong answer or format ({verdict.note}): "
            f"{example.completion!r}"
        )
    return example


def _from_policy(
    settings: Settings, inputs: Mapping[str, Path], context: Context, asked: Sequence[Problem], counts: Counter[str]
) -> list[WorkedExample]:
    policy = load_policy(inputs["policy"] / "model")
    if settings.simulations and "scorer" not in inputs:
        raise SettingError(f"simulations={settings.simulations} needs an input 'scorer': a process_reward stage")
    engine = build_search_engine(policy) if settings.simulations else build_loaded_engine(policy)
    scorer = load_scorer(inputs["scorer"], policy) if settings.simulations else None
    params = SamplingParams(
        settings.max_new_tokens, temperature=settings.temperature, end_token_ids=policy.tokenizer.end_token_ids
    )
    examples: list[WorkedExample] = []
    for start in range(0, len(asked), settings.chunk):
        problems = asked[start : start + settings.chunk]
        prompts = [policy.renderer.prompt(p.prompt) for p in problems]
        if scorer is None:
            groups = sample_groups(engine, problems, prompts, settings.samples, params, context.seed, start)
        else:
            groups = _search(engine, policy, scorer, problems, prompts, params, settings, context.seed)
        for judged in read_groups(groups, policy.renderer):
            examples += _keep(judged, settings, counts, origin=inputs["policy"].name)
        context.progress(start + len(problems), len(asked), kept=len(examples))
    return examples


def _search(
    engine: NativeEngine,
    policy: Policy,
    scorer: Scorer,
    problems: Sequence[Problem],
    prompts: Sequence[tuple[int, ...]],
    params: SamplingParams,
    settings: Settings,
    seed: int,
) -> list[Group]:
    """The texts that each problem's tree has finished; their log-probs are not known."""
    trees = [
        mcts(
            Text(prompt),
            params,
            stops=STEP_STOPS,
            simulations=settings.simulations,
            width=EXPAND,
            key=answer_key(problem, policy),
        )
        for problem, prompt in zip(problems, prompts, strict=True)
    ]
    seeds = [stream(seed, "tree", problem.id, problem.language) for problem in problems]
    return [
        Group(
            problem,
            prompt,
            tuple(
                Completion(p.token_ids, (math.nan,) * len(p.token_ids), p.finish_reason or FinishReason.STOP, 0)
                for p in found.choice.candidates
            ),
        )
        for problem, prompt, found in zip(problems, prompts, search(engine, trees, seeds, scorer), strict=True)
    ]


def _keep(judged: Judged, settings: Settings, counts: Counter[str], *, origin: str) -> list[WorkedExample]:
    """The distinct samples of a problem that are correct, well formed, readable and, unless rewritten, in one
    language."""
    kept: dict[str, WorkedExample] = {}
    problem = judged.problem
    verdicts = judge_accuracy([problem] * len(judged.responses), judged.responses)
    for response, verdict in zip(judged.responses, verdicts, strict=True):
        if verdict.score != 1.0:
            counts["wrong"] += 1
        elif not response.well_formed:
            counts["bad format"] += 1
        elif not readable(response.think):
            counts["unreadable"] += 1
        elif not settings.rewritten and rules.language_share(response.think, problem.language) not in (1.0, None):
            counts["mixed language"] += 1
        elif len(kept) == settings.per_problem:
            counts["enough"] += 1
        else:
            thought = rewrite(response.think, problem.language) if settings.rewritten else response.think
            text = tagged(thought, response.answer or "")
            counts["said before" if text in kept else "kept"] += 1
            kept.setdefault(text, WorkedExample(problem.prompt, text, origin))
    return list(kept.values())
