"""Accuracy against generated tokens: every search at several budgets on the same problems, and what pays where."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from aha.errors import DataError, InvariantError
from aha.evaluate.estimators import mean_interval, pass_at_k, score_interval
from aha.records import Problem, Status
from aha.reward.accuracy import judge_accuracy
from aha.rollout.engine import SamplingParams
from aha.search.adaptive import best_per_bin, cross_validated, difficulty_bins
from aha.search.beam import beam
from aha.search.best_of_n import best_of_n
from aha.search.budget import force_budget
from aha.search.driver import Found, search
from aha.search.mcts import mcts
from aha.search.path import Key, Path, Scorer, Strategy
from aha.search.revise import revise
from aha.search.scores import AGGREGATES, Aggregate, last
from aha.search.vote import vote
from aha.stages.models import Policy
from aha.stages.search import EXPAND, STEP_STOPS, answer_key, build_search_engine, read_path
from aha.util.seeds import stream

CHUNK = 25
ROUNDS = 4  # of a chain of revisions
Builder = Callable[[Path, int, Key], Strategy]


def strategies(policy: Policy, params: SamplingParams, *, longest: int, scored: bool) -> dict[str, Builder]:
    """Every strategy by name, for a root, a budget and a vote's key; those that judge only where there is a scorer.

    ``longest`` is that of the prompts, in tokens. A revision stands behind up to three answers, all of which must fit
    into the model's positions, so each may have a quarter of them. Budget forcing asks for 8 tokens of thinking and
    allows one "wait" for each unit of its budget.
    """
    quarter = replace(
        params,
        max_new_tokens=max(1, min(params.max_new_tokens, policy.config.max_position_embeddings // ROUNDS - longest)),
    )
    encode, decode = policy.tokenizer.encode, policy.tokenizer.decode
    close, wait = tuple(encode("</think>")), tuple(encode("wait"))
    most = params.max_new_tokens * 3 // 4
    found: dict[str, Builder] = {
        "vote": lambda root, n, key: vote(root, params, samples=n, key=key),
        "revise": lambda root, n, key: revise(
            root, quarter, rounds=min(n, ROUNDS), chains=max(1, n // ROUNDS), key=key
        ),
        "budget": lambda root, n, key: force_budget(
            root, params, least=min(most, 8 * n), most=most, waits=n, wait_ids=wait, close_ids=close, detokenize=decode
        ),
    }
    if not scored:
        return found

    def best(aggregate: Aggregate) -> Builder:
        return lambda root, n, key: best_of_n(root, params, samples=n, aggregate=aggregate)

    def beams(ahead: int) -> Builder:
        return lambda root, n, key: beam(
            root, params, stops=STEP_STOPS, width=n, expand=min(n, EXPAND), key=key, lookahead=ahead
        )

    found["weighted vote"] = lambda root, n, key: vote(root, params, samples=n, key=key, aggregate=last)
    found |= {f"best-of-n {name}": best(aggregate) for name, aggregate in AGGREGATES.items()}
    found |= {"beam": beams(0), "lookahead": beams(1)}
    found["mcts"] = lambda root, n, key: mcts(
        root, params, stops=STEP_STOPS, simulations=2 * n, width=min(n, EXPAND), key=key
    )
    return found


def measure_scaling(
    policy: Policy,
    scorer: Scorer | None,
    problems: Sequence[Problem],
    params: SamplingParams,
    *,
    budgets: Sequence[int],
    bins: int,
    seed: int,
    progress: Callable[[str, int, int | None], None],
) -> dict[str, Any]:
    """A row a strategy and budget (``accuracy`` and ``tokens`` a problem, with 95 % intervals), ``oracle`` pass@k, and
    by difficulty the best of each budget.

    Difficulty is pass@1 over samples of their own (the oracle's bins of Snell et al., 3.2); what the choice by bin
    earns is cross-validated. ``progress`` is told the work, how much of it is done, and of how much. Raises
    ``InvariantError`` where a strategy counts other tokens than the engine, ``DataError`` for fewer than two problems a
    bin.
    """
    if len(problems) < 2 * bins:
        raise DataError(f"{len(problems)} problems for {bins} bins of difficulty: ask at least {2 * bins}")
    engine = build_search_engine(policy)
    largest = max(budgets)

    def run(build: Builder, budget: int, *names: str | int) -> tuple[list[Found], float]:
        started, found, before = time.perf_counter(), [], engine.sampled_tokens
        for start in range(0, len(problems), CHUNK):
            chunk = problems[start : start + CHUNK]
            found += search(
                engine,
                [build(Path(policy.renderer.prompt(p.prompt)), budget, answer_key(p, policy)) for p in chunk],
                [stream(seed, *names, problem.id, problem.language) for problem in chunk],
                scorer,
            )
        counted, drawn = sum(f.spent.sampled for f in found), engine.sampled_tokens - before
        if counted != drawn:
            raise InvariantError(f"{names}: strategies count {counted} tokens, the engine has drawn {drawn}")
        return found, time.perf_counter() - started

    longest = max(len(policy.renderer.prompt(problem.prompt)) for problem in problems)
    builders = strategies(policy, params, longest=longest, scored=scorer is not None)
    todo = [(name, budget) for budget in budgets for name in builders]
    progress("searches", 0, len(todo))
    probes, _ = run(builders["vote"], largest, "difficulty")
    solved = [sum(row) / len(row) for row in _judge(problems, [f.choice.candidates for f in probes], policy)]
    bins_P = difficulty_bins(solved, bins)
    rows: list[dict[str, Any]] = []
    correct: dict[tuple[str, int], list[float]] = {}
    for done, (name, budget) in enumerate(todo, 1):
        found, seconds = run(builders[name], budget, "search")
        right = [float(row[0]) for row in _judge(problems, [(f.choice.path,) for f in found], policy)]
        correct[name, budget] = right
        rows.append(
            {
                "strategy": name,
                "budget": budget,
                "accuracy": score_interval(right).as_dict(),
                "tokens": mean_interval([f.spent.sampled for f in found], minimum=0.0).as_dict(),
                "scored": sum(f.spent.scored for f in found) / len(found),
                "seconds": seconds,
                "by_bin": [_mean([v for v, b in zip(right, bins_P, strict=True) if b == k]) for k in range(bins)],
            }
        )
        progress("searches", done, len(todo))
    all_right = _judge(problems, [f.choice.candidates for f in probes], policy)
    optimal = []
    for budget in budgets:
        at = {name: right for (name, b), right in correct.items() if b == budget}
        optimal.append(
            {
                "budget": budget,
                "best": {str(k): name for k, name in best_per_bin(at, bins_P).items()},
                "accuracy": score_interval(cross_validated(at, bins_P)).as_dict(),
            }
        )
    return {
        "problems": len(problems),
        "rows": rows,
        "oracle": [{"k": k, **pass_at_k(all_right, k).as_dict()} for k in budgets],
        "difficulty": [_mean([s for s, b in zip(solved, bins_P, strict=True) if b == k]) for k in range(bins)],
        "compute_optimal": optimal,
        "read_tokens": engine.read_tokens,
        "sampled_tokens": engine.sampled_tokens,
    }


def _judge(problems: Sequence[Problem], paths: Sequence[Sequence[Path]], policy: Policy) -> list[list[bool]]:
    asked = [problem for problem, own in zip(problems, paths, strict=True) for _ in own]
    verdicts = iter(judge_accuracy(asked, [read_path(path, policy) for own in paths for path in own]))
    return [[next(verdicts).status is Status.RIGHT for _ in own] for own in paths]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
