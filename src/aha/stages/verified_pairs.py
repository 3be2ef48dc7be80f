"""The off-policy branch: a right and a wrong completion of the same problem, from a model's own samples, are a pair.

The verifier says which is which, so that no judge and no reward model is needed (Light-R1 and others learn reasoning
from such pairs). Writes ``pairs_train.jsonl`` and, from problems nobody trains on, ``pairs_test.jsonl``.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from aha.config import Count, Frozen, Rate
from aha.data.preference_files import save_pairs
from aha.data.preferences import Pair
from aha.data.problems import load_problems
from aha.errors import DataError
from aha.evaluate.runner import Judged, read_groups
from aha.records import FinishReason, Problem, StageResult, Status
from aha.reward.accuracy import judge_accuracy
from aha.rollout.engine import SamplingParams
from aha.rollout.group import sample_groups
from aha.stages.context import Context
from aha.stages.models import build_loaded_engine, load_policy
from aha.util.seeds import python_rng


class Settings(Frozen):
    """``problems`` training and ``held_out`` test problems, ``samples`` completions each, at most ``per_problem`` pairs
    of each problem."""

    problems: Count = 500
    held_out: Count = 100
    samples: Count = 8
    per_problem: Count = 2
    max_new_tokens: Count = 80
    temperature: Rate = 1.0
    chunk: Count = 50


def run(settings: Settings, inputs: Mapping[str, Path], context: Context) -> StageResult:
    """``policy`` gives the samples, ``problems`` the questions; counts what became of the samples."""
    policy = load_policy(inputs["policy"] / "model")
    engine = build_loaded_engine(policy)
    params = SamplingParams(
        settings.max_new_tokens, temperature=settings.temperature, end_token_ids=policy.tokenizer.end_token_ids
    )
    counts: Counter[str] = Counter()
    metrics: dict[str, object] = {}
    asked = {}
    for name, wanted in (("train", settings.problems), ("test", settings.held_out)):
        problems = load_problems(inputs["problems"] / f"{name}.jsonl")
        asked[name] = python_rng(context.seed, "asked", name).sample(problems, min(wanted, len(problems)))
    total, done = sum(map(len, asked.values())), 0
    for name, problems in asked.items():
        pairs: list[Pair] = []
        for start in range(0, len(problems), settings.chunk):
            part = problems[start : start + settings.chunk]
            prompts = [policy.renderer.prompt(p.prompt) for p in part]
            groups = sample_groups(engine, part, prompts, settings.samples, params, context.seed, done)
            for judged in read_groups(groups, policy.renderer):
                rng = python_rng(context.seed, "pairs", name, judged.problem.id)
                pairs += pair_up(judged, settings.per_problem, rng, counts)
            done += len(part)
            context.progress(done, total, pairs=len(pairs))
        if not pairs:
            raise DataError(
                f"no pair among {settings.samples} samples of {len(problems)} {name} problems ({dict(counts)}): a pair "
                "needs a problem answered both right and wrong; ask more or other problems, or take more samples"
            )
        save_pairs(context.out / f"pairs_{name}.jsonl", pairs)
        metrics[name] = len(pairs)
    return StageResult({**metrics, "samples": dict(counts)})


def pair_up(judged: Judged, most: int, rng: random.Random, counts: Counter[str]) -> list[Pair]:
    """Up to ``most`` pairs of distinct right and wrong completions of a problem, drawn at random. A right one has to
    keep the format; one that was cut is neither: what it would have said nobody knows, and its end is no end."""
    problem: Problem = judged.problem
    sides: dict[bool, dict[str, None]] = {True: {}, False: {}}
    verdicts = judge_accuracy([problem] * len(judged.responses), judged.responses)
    rows: Sequence[tuple[str, bool]] = [
        (text, response.well_formed) for text, response in zip(judged.texts, judged.responses, strict=True)
    ]
    for (text, well_formed), verdict, completion in zip(rows, verdicts, judged.completions, strict=True):
        if verdict.status is Status.ERROR:
            counts["verifier failed"] += 1
        elif completion.finish_reason is FinishReason.LENGTH or not text.strip():
            counts["cut or empty"] += 1
        elif verdict.status is Status.RIGHT and not well_formed:
            counts["right, bad format"] += 1
        else:
            counts[verdict.status.value] += 1
            sides[verdict.status is Status.RIGHT].setdefault(text)
    number = min(most, len(sides[True]), len(sides[False]))
    counts["problems with a pair"] += number > 0
    chosen, rejected = (rng.sample(list(sides[right]), number) for right in (True, False))
    return [Pair(problem, a, b) for a, b in zip(chosen, rejected, strict=True)]
