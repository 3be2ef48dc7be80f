"""Evaluating a model folder by hand: several benches, nothing written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aha.errors import UsageError
from aha.evaluate.runner import Judged, reasoning_metrics
from aha.records import Problem
from aha.stages.evaluate import Settings, sample_judged
from aha.stages.generate import room_for_new_tokens
from aha.stages.models import Policy, build_loaded_engine


def assess(
    policy: Policy,
    benches: Mapping[str, Sequence[Problem]],
    *,
    samples: int,
    max_new_tokens: int | None,
    temperature: float,
    top_p: float,
    seed: int,
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """The metrics of an evaluation stage for each bench, and its seconds.

    ``progress`` is told how many problems are done. A vote and pass@k have the largest power of two up to ``samples``.
    """
    for name, problems in benches.items():
        if any(problem.task == "general" for problem in problems):
            raise UsageError(f"bench {name} has general prompts, which have no answer to check: leave them out")
    engine = build_loaded_engine(policy)
    votes = [1 << power for power in range(samples.bit_length())]
    done, results = 0, {}
    for name, problems in benches.items():
        started = time.perf_counter()
        longest = max(len(policy.renderer.prompt(problem.prompt)) for problem in problems)
        settings = Settings(
            samples=samples,
            max_new_tokens=room_for_new_tokens(policy, longest, max_new_tokens),
            temperature=temperature,
            top_p=top_p,
        )
        judged: list[Judged] = []
        chunk = max(1, settings.chunk * Settings().samples // samples)
        for start in range(0, len(problems), chunk):
            asked = problems[start : start + chunk]
            judged += sample_judged(engine, policy, asked, samples, settings, seed)
            done += len(asked)
            progress(done)
        results[name] = {"problems": len(problems), **reasoning_metrics(judged, votes=votes)}
        results[name]["seconds"] = time.perf_counter() - started
    return results
