"""What a model can do on held-out problems: accuracy with intervals, votes, format, language, length, general score."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aha.config import Amount, Count, Frozen, NotNegative, TopP
from aha.data.preferences import is_harmful
from aha.data.problems import load_problems
from aha.evaluate.estimators import score_interval
from aha.evaluate.runner import Judged, count_errors, general_score, read_groups, reasoning_metrics
from aha.records import Problem, Sample, StageResult
from aha.reward import rules
from aha.rollout.engine import SamplingParams
from aha.rollout.group import sample_groups
from aha.rollout.native.engine import NativeEngine
from aha.stages.context import Context
from aha.stages.models import Policy, build_loaded_engine, load_policy
from aha.stages.rewarding import load_preferences
from aha.stages.samples import write_samples
from aha.util.files import write_json_atomic


class Settings(Frozen):
    """``samples`` a problem, ``general_samples`` a general prompt; the vote curve has every power of two up to
    ``samples``. ``speculate`` tokens a step are drafted by modules of multi-token prediction."""

    samples: Count = 16
    general_samples: Count = 4
    max_new_tokens: Count = 80
    temperature: NotNegative = 1.0
    top_p: TopP = 1.0
    chunk: Count = 25
    kept_samples: Amount = 24
    speculate: Amount = 0


def run(settings: Settings, inputs: Mapping[str, Path], context: Context) -> StageResult:
    """``model`` is judged on ``problems``; ``helpful`` and ``safe`` give the preference score where they are inputs.
    Writes ``by_problem.json`` beside the result: scores of each problem, by which two models can be compared.

    Every model of a recipe answers the same problems with the same seeds.
    """
    started = time.perf_counter()
    policy = load_policy(inputs["model"] / "model")
    problems = load_problems(inputs["problems"] / "test.jsonl")
    general_path = inputs["problems"] / "general_test.jsonl"
    general = load_problems(general_path) if general_path.exists() else []
    engine = build_loaded_engine(policy, speculate=settings.speculate)
    total = len(problems) + len(general)
    judged: list[Judged] = []
    for asked, samples in ((problems, settings.samples), (general, settings.general_samples)):
        for start in range(0, len(asked), settings.chunk):
            chunk = asked[start : start + settings.chunk]
            judged += sample_judged(engine, policy, chunk, samples, settings, context.seed)
            context.progress(len(judged), total)
    reasoning, other = judged[: len(problems)], judged[len(problems) :]
    votes = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= settings.samples]
    metrics: dict[str, Any] = {"model": inputs["model"].name, **reasoning_metrics(reasoning, votes=votes)}
    by_problem = metrics.pop("by_problem")
    if other:
        metrics["general"] = general_score(other).as_dict()
        if preferred := _preferences(other, inputs, policy):
            metrics["preference"] = score_interval(preferred).as_dict()
            by_problem["preference"] = preferred
    write_json_atomic(context.out / "by_problem.json", by_problem)
    _keep_samples(context.out / "samples" / "evaluation.parquet", reasoning[: settings.kept_samples], policy)
    return StageResult(metrics | {"seconds": time.perf_counter() - started})


def sample_judged(
    engine: NativeEngine, policy: Policy, problems: Sequence[Problem], samples: int, settings: Settings, seed: int
) -> list[Judged]:
    """``samples`` completions of each problem, read."""
    params = SamplingParams(
        settings.max_new_tokens, settings.temperature, settings.top_p, end_token_ids=policy.tokenizer.end_token_ids
    )
    prompts = [policy.renderer.prompt(p.prompt) for p in problems]
    return read_groups(sample_groups(engine, problems, prompts, samples, params, seed, 0), policy.renderer)


def _preferences(judged: Sequence[Judged], inputs: Mapping[str, Path], policy: Policy) -> list[float]:
    """Mean preference score of each prompt: safety of harmful prompts, helpfulness of all others; none without both."""
    judges = load_preferences(inputs, policy.renderer)
    if not {"helpful", "safe"} <= judges.keys():
        return []
    values = []
    for j in judged:
        judge = judges["safe" if is_harmful(j.problem) else "helpful"]
        verdicts = judge([j.problem] * len(j.responses), j.responses)
        count_errors(verdicts)
        values.append(sum(v.score for v in verdicts) / len(verdicts))
    return values


def _keep_samples(path: Path, judged: Sequence[Judged], policy: Policy) -> None:
    samples = []
    for j in judged:
        for text, response, completion in zip(j.texts[:2], j.responses, j.completions, strict=False):
            verdicts = [rule(j.problem, response) for rule in (rules.accuracy, rules.format_tags, rules.language)]
            samples.append(
                Sample(
                    step=0,
                    problem_id=j.problem.id,
                    task=j.problem.task,
                    language=j.problem.language,
                    prompt=policy.renderer.prompt_text(j.problem.prompt),
                    completion=text,
                    answer=j.problem.answer,
                    finish_reason=completion.finish_reason.value,
                    reward=verdicts[0].score,
                    rewards={v.name: v.score for v in verdicts},
                    tokens=policy.renderer.token_texts(completion.token_ids),
                )
            )
    write_samples(path, samples)
