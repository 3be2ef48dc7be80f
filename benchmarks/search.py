"""Test-time scaling of a model: accuracy against generated tokens for every search, with a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aha.evaluate.benches import load_bench
from aha.report.scaling import save_scaling_figure
from aha.rollout.engine import SamplingParams
from aha.stages.generate import open_model, room_for_new_tokens
from aha.stages.scaling import measure_costs, measure_scaling
from aha.stages.search import load_scorer
from aha.terminal import phases
from benchmarks.setting import versions

BUDGETS = (1, 4, 16)
BINS = 5
TIMED = 25  # problems of the comparison of costs


def measure(
    *,
    model: Path,
    scorer: Path | None = None,
    bench: str = "chain",
    limit: int | None = None,
    max_new_tokens: int | None = None,
    temperature: float = 0.6,
    top_p: float = 0.95,
    seed: int = 0,
    picture: Path | None = None,
) -> dict[str, Any]:
    """The figures of ``stages.scaling.measure_scaling`` on a bench, and ``costs``, of its ``measure_costs``;
    ``picture`` is where they are drawn."""
    policy, origin = open_model(model, template=None)
    problems = load_bench(bench, limit=limit)
    longest = max(len(policy.renderer.prompt(problem.prompt)) for problem in problems)
    params = SamplingParams(
        room_for_new_tokens(policy, longest, max_new_tokens),
        temperature=temperature,
        top_p=top_p,
        end_token_ids=policy.tokenizer.end_token_ids,
    )
    judge = None if scorer is None else load_scorer(scorer, policy)
    with phases() as progress:
        found = measure_scaling(
            policy, judge, problems, params, budgets=BUDGETS, bins=BINS, seed=seed, progress=progress
        )
    costs = measure_costs(policy, judge, problems[:TIMED], params, seed=seed)
    if picture is not None:
        save_scaling_figure(found, picture)
    setting = {"temperature": temperature, "top_p": top_p, "seed": seed}
    about = {"benchmark": "search", "bench": bench, "template": origin, "setting": setting}
    return {**about, **found, "costs": costs, "versions": versions("torch")}
